"""What `prepare` and `evaluate` write at their peak, per file system; of the phases `budget` says it."""

from collections.abc import Iterator

from xtts_finetune.core.constants import CODE_STRIDE, SAMPLE_RATE
from xtts_finetune.core.disk import can_link
from xtts_finetune.core.layout import PHASES, WEIGHTS
from xtts_finetune.data.clips import Clip, read_metadata
from xtts_finetune.diskspace.beside import beside_weights, size_of
from xtts_finetune.diskspace.budget import SMALL_THINGS, Budget, Demand, Term, by_file_system

# Bytes that `prepare` makes of a base: mini's GPT and codec; of XTTS v2 the codec and the vocoder.
BASE_BYTES = {"mini": 34_000_000, "published": 320_000_000}
REPORTS = 10_000_000  # bytes: reports/dataset.*, the reference, and what DVC writes down about it all
SAMPLE_BYTES = 2 * 24_000  # of a second of speech, as 16-bit PCM
_LINE = 300  # bytes that a clip's entry takes beside its text


def prepare_peak(budget: Budget) -> list[Demand]:
    """By the headers of the recordings: nothing is decoded.

    Raises:
        UserError: metadata.csv cannot be used.
    """
    workspace, params = budget.workspace, budget.params
    clips = read_metadata(workspace.data, params.prepare.language)
    features = sum(_feature_bytes(clip, params.prepare.max_seconds) for clip in clips)
    base = BASE_BYTES["mini" if params.base == "mini" else "published"]
    terms = [
        Term(workspace.prepared, f"features of {len(clips)} clips", 1, features),
        Term(workspace.prepared, "base files", 1, base),
        Term(workspace.root, "reports", 1, REPORTS),
    ]
    if not budget.cache_links(workspace.prepared):
        terms.append(Term(budget.cache.root, "copied to DVC's cache", 1, features + base))
    return by_file_system(terms)


def evaluate_peak(budget: Budget) -> list[Demand]:
    """By the weights that the phases have exported."""
    return by_file_system(list(_evaluate_terms(budget)))


def _evaluate_terms(budget: Budget) -> Iterator[Term]:
    workspace, evaluation = budget.workspace, budget.params.evaluate
    models, artifacts = [workspace.model(phase) for phase in PHASES], workspace.tracking_db.parent
    speech = round((len(evaluation.sentences) + 1) * evaluation.max_seconds * SAMPLE_BYTES)  # + what the recording says
    recording = round(budget.params.prepare.max_seconds * SAMPLE_BYTES)  # no clip is longer
    yield Term(workspace.reports, "samples of three models", len(models) + 1, speech)
    yield Term(workspace.reports, "the recording beside them", 1, recording)
    yield Term(workspace.root, "figures, databases", 1, SMALL_THINGS)
    weights = max(map(size_of, (model / WEIGHTS for model in models)))
    whole, beside = budget.whole_weights, beside_weights(workspace, budget.params.base)
    bundle = max(whole, weights) + beside
    sources = [(model / WEIGHTS).resolve().parent for model in models]  # DVC may have left a symlink into its cache
    waiting = workspace.undelivered
    if not all(can_link(source, waiting) for source in sources):
        yield Term(waiting, "bundle, copied together", 1, beside if whole else bundle)
    yield from budget.whole_terms()
    if budget.params.tracking.uri is None and not can_link(waiting, artifacts):
        yield Term(artifacts, f"bundle copied to {artifacts.name}/", 1, bundle)


def _feature_bytes(clip: Clip, max_seconds: float) -> int:
    """Of the audio at SAMPLE_RATE and its codes, in 16 bits; tokens in 32, at most one a character; 0 if unusable."""
    import soundfile

    try:
        seconds: float = soundfile.info(str(clip.audio)).duration
    except (OSError, RuntimeError, TypeError):  # it will be rejected, with its reason
        return 0
    if seconds > max_seconds:
        return 0
    samples = seconds * SAMPLE_RATE
    return round(2 * samples + 2 * samples / CODE_STRIDE) + 5 * len(clip.text.encode()) + _LINE
