"""What was measured, and how, as a paragraph that can stand in a paper; from the scores alone."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

from medseg.evaluation.comparison import Comparison
from medseg.evaluation.metrics import Metric, metric
from medseg.evaluation.records import Scores
from medseg.evaluation.settings import SurfaceMode
from medseg.evaluation.significance import MOST_EXACT
from medseg.evaluation.statistics import DRAWS, FEWEST, FEWEST_FOR_MEDIAN

MAIN = ("dice", "iou", "hd_mm", "hd95_mm", "assd_mm", "nsd", "boundary_f1")  # those of the main table
MOST_NAMED = 12
_DRAWS = f"{DRAWS:,}".replace(",", " ")

_SURFACES: Mapping[SurfaceMode, str] = {
    "surfel": "the surface elements of DeepMind's surface-distance, weighted by their area",
    "voxel": "the centres of voxels with a face to the outside, each of the same weight",
    "mesh": "the triangles of the 0.5-isosurface, weighted by their area",
}
_WORKS: Mapping[str, str] = {
    "Bland 1999": "Bland JM, Altman DG. Measuring agreement in method comparison studies. Stat Methods Med Res "
    "1999;8:135",
    "Cheng 2021": "Cheng B et al. Boundary IoU: improving object-centric image segmentation evaluation. CVPR 2021",
    "Csurka 2013": "Csurka G et al. What is a good evaluation measure for semantic segmentation? BMVC 2013",
    "Efron 1993": "Efron B, Tibshirani RJ. An Introduction to the Bootstrap. Chapman & Hall 1993",
    "Holm 1979": "Holm S. A simple sequentially rejective multiple test procedure. Scand J Stat 1979;6:65",
    "Kirillov 2019": "Kirillov A et al. Panoptic segmentation. CVPR 2019",
    "Lin 1989": "Lin LI. A concordance correlation coefficient to evaluate reproducibility. Biometrics 1989;45:255",
    "Maier-Hein 2024": "Maier-Hein L et al. Metrics reloaded. Nat Methods 2024;21:195",
    "Nikolov 2018": "Nikolov S et al. Deep learning to achieve clinically applicable segmentation of head and neck "
    "anatomy for radiotherapy. arXiv:1809.04430, 2018",
    "Shit 2021": "Shit S et al. clDice: a novel topology-preserving loss function for tubular structures. CVPR 2021",
    "Wiesenfarth 2021": "Wiesenfarth M et al. Methods and open-source toolkit for analyzing and visualizing challenge "
    "results. Sci Rep 2021;11:2369",
    "Wilcoxon 1945": "Wilcoxon F. Individual comparisons by ranking methods. Biometrics Bull 1945;1:80",
}


def methods_paragraph(scores: Scores) -> str:
    """What was compared, the metrics of the main table with their definitions, failures, means, intervals, versions."""
    metrics = shown_metrics(scores)
    text = " ".join(
        [
            *_compared(scores),
            definitions(scores, metrics),
            *_failures(scores),
            *_means(scores),
            *_groups(scores),
            *_agreement(scores),
            versions(scores, metrics),
        ]
    )
    return f"{text}\n\n{references(text)}"


def comparison_paragraph(comparison: Comparison, scores: Scores, metrics: Sequence[Metric]) -> str:
    """What a comparison compared, by which metrics, and how; `scores` are those of the first method."""
    names, tests = comparison.names, sum(one.p is not None for one in comparison.differences)
    patients = f" of {counted(comparison.patients, 'patient')}" if comparison.patients < comparison.cases else ""
    text = " ".join(
        [
            f"{len(names)} methods ({listed(names)}) were compared in the same {counted(comparison.cases, 'case')}"
            f"{patients} and {counted(len(comparison.structures), 'structure')} ({listed(comparison.structures)}).",
            definitions(scores, metrics),
            "A missed or spurious structure has an infinite distance, which counts as the diagonal of its image in "
            "means and as the worst in ranks; a method that rightly finds nothing is perfect beside one that finds "
            "something.",
            f"Differences are paired, with 95 % intervals by percentiles of {_DRAWS} bootstrap samples of patients, "
            "each with all of its cases (Efron 1993); over structures, they are means of the structures' differences.",
            "Differences of patients were tested by Wilcoxon's signed-rank test, two-sided, zeros by Pratt's method, "
            f"exact up to {MOST_EXACT} patients (Wilcoxon 1945), with p values adjusted for all "
            f"{counted(tests, 'test')} by Holm (Holm 1979).",
            "Methods were ranked in each case and structure, equal values sharing the mean of their ranks, and by "
            "their mean rank; the ranking was bootstrapped over patients (Wiesenfarth 2021).",
            versions(comparison, metrics),
        ]
    )
    return f"{text}\n\n{references(text)}"


def shown_metrics(scores: Scores, names: Iterable[str] = MAIN) -> list[Metric]:
    """Those of these metrics that were measured."""
    return [one for name in names if (one := metric(name)) and (name in scores.metrics or not scores.metrics)]


def definitions(scores: Scores, metrics: Sequence[Metric]) -> str:
    """What each of these metrics is, with surface and tolerances."""
    told = [f"{one.label}, {_in_signs(one.definition)}" for one in metrics]
    sentences = [
        "With R and P the voxels of a structure in reference and prediction, the metrics are: " + "; ".join(told)
    ]
    if any(one.group in ("distance", "boundary") for one in metrics):
        sentences.append(f"Surfaces are {_SURFACES[scores.surface]}; distances are in mm")
        if scores.settings.fov_faces == "exclude":
            sentences.append("Surface on the border of the image is left out")
    if any(one.at_tolerances for one in metrics):
        sentences.append(_tolerances(scores, [one for one in metrics if one.at_tolerances]))
    return ". ".join(sentences) + "."


def versions(scores: Scores | Comparison, metrics: Sequence[Metric]) -> str:
    """Software, and the version of each metric."""
    software = {"medseg": scores.medseg, **scores.software}
    told = ", ".join(f"{name} {number}" for name, number in software.items() if number)
    numbers = {one.name: scores.metrics[one.name].version if one.name in scores.metrics else 1 for one in metrics}
    if set(numbers.values()) == {1}:
        return f"Software: {told} (version 1 of each metric)."
    return f"Software: {told} (versions of the metrics: {', '.join(f'{k} {n}' for k, n in numbers.items())})."


def references(text: str) -> str:
    """The works that a text names, a line each."""
    named = [f"{name}: {work}." for name, work in _WORKS.items() if name in text]
    return "\n".join(["References", *named])


def counted(n: int, one: str, many: str = "") -> str:
    """`1 case`, `3 cases`."""
    return f"{n} {one}" if n == 1 else f"{n} {many or one + 's'}"


def listed(names: Sequence[str]) -> str:
    """Names with commas, the first of many."""
    more = f" and {len(names) - MOST_NAMED} more" if len(names) > MOST_NAMED else ""
    return ", ".join(names[:MOST_NAMED]) + more


def whose(cases: Iterable[str], patients: Mapping[str, int]) -> str:
    """`30 cases of 28 patients`; where nothing tells of patients, `30 cases`."""
    own = list(cases)
    told = counted(len(own), "case")
    if not patients:
        return told
    n = len({patients.get(case, case) for case in own})
    return f"{told} of {counted(n, 'patient')}"


def unit_of(patients: Mapping[str, int]) -> str:
    """What is drawn in a bootstrap, in words."""
    return "patients, each with all of its cases," if patients else "cases"


def _compared(scores: Scores) -> Iterator[str]:
    cases = {row.case for row in scores.scores}
    names = [one.structure for one in scores.structures]
    yield (
        f"Predicted segmentations were compared with the reference segmentations of {whose(cases, scores.patients)}, "
        f"for {counted(len(names), 'structure')}{f' ({listed(names)})' if names else ''}."
    )
    if scores.failed:
        yield f"Not everything of {counted(len(scores.failed), 'case')} could be read."
    if scores.missing_predictions:
        n = len(scores.missing_predictions)
        yield f"For {counted(n, 'reference')} there was no prediction: every structure counts as missed there."


def _in_signs(definition: str) -> str:
    return definition.replace(" n ", " ∩ ").replace(" u ", " ∪ ")


def _tolerances(scores: Scores, metrics: Sequence[Metric]) -> str:
    names = " and ".join(one.label for one in metrics)
    told = f"The tolerance of {names} is {scores.tolerance_mm:g} mm"
    others = [f"{name} {mms[0]:g} mm" for name, mms in scores.settings.tolerances_of.items() if mms]
    return told + (f" (but {listed(others)})" if others else "")


def _failures(scores: Scores) -> Iterator[str]:
    missed, spurious, empty = (
        sum(getattr(one, name) for one in scores.structures) for name in ("n_missed", "n_spurious", "n_both_empty")
    )
    yield (
        f"A structure in the reference alone (missed, {counted(missed, 'time')}) or in the prediction alone (spurious, "
        f"{counted(spurious, 'time')}) has the worst value of every metric: 0 for overlap and boundary metrics, an "
        "infinite distance, which counts as the diagonal of its image in means and as infinite in quantiles."
    )
    what = "counts as perfect" if scores.settings.both_empty == "perfect" else "is left out"
    yield f"A structure in neither ({counted(empty, 'time')}) {what}."


def _means(scores: Scores) -> Iterator[str]:
    if len(scores.structures) > 1:
        over = f"the regions {listed(scores.mean_over)}" if scores.mean_over else "structures"
        yield f"Means are over cases, and the overall mean is over {over}, of their means (Maier-Hein 2024)."
    else:
        yield "Means are over cases (Maier-Hein 2024)."
    yield (
        f"95 % intervals of means are percentiles of {_DRAWS} bootstrap samples of {unit_of(scores.patients)} drawn "
        f"with replacement (Efron 1993), from {FEWEST} {_units(scores)} on; those of medians are order statistics by "
        f"the binomial distribution, from {FEWEST_FOR_MEDIAN} on."
    )


def _units(scores: Scores) -> str:
    return "patients" if scores.patients else "cases"


def _groups(scores: Scores) -> Iterator[str]:
    columns = list(dict.fromkeys(one.column for one in scores.strata))
    if columns:
        yield f"Cases were also summed up in groups by {listed(columns)}, without a test between groups."


def _agreement(scores: Scores) -> Iterator[str]:
    if scores.agreement:
        yield (
            "Agreement of volumes is told by bias and limits of agreement (1.96 SD; Bland 1999) and by the concordance "
            "correlation coefficient (Lin 1989)."
        )
