"""What speech sounds like, in numbers: each sentence measured by libraries that work offline, models compared by them.

`measured.py` measures one sound, `paired.py` compares two models by the same sentences; docs/speech-measures.md says
what each number means and what it is blind to.
"""
