"""All that tests work in is made here, from one set of parts, and nowhere else.

`workspaces` has every kind of workspace, by its cost; the parts are `project` (the project's own files), `recordings`
(sound and its list), `params`, `prepared` (what `prepare` leaves, as far as digests and sizes tell, or with features),
and `bases` (real networks: the tiny base, and the stand-in for XTTS v2's published files).

What happens in a workspace is elsewhere: processes in `checkouts` and `small_runs`, a training in this process in
`workbench`, disks in `small_disks`, damage in `damage`.
"""
