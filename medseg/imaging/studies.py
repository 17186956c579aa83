"""Which volumes of a study are segmented: never a silent choice among equals.

The unit is the study. Of its usable volumes the one that the rule asks for is taken, or the best by the default score
(`dicom.select`), and the choice is told; where two are alike, none is taken and both are named.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from medseg.errors import InputError
from medseg.imaging.case import Left
from medseg.imaging.dicom.select import Rule, choose, parse_rule
from medseg.imaging.dicom.volumes import SubVolume
from medseg.imaging.naming import dicom_name
from medseg.imaging.source import ReadOptions, Source

ALL = "all"
NO_VOLUME = {"LOCALIZER", "SCREEN", "PROJECTION"}  # meant for the eye: nothing is lost if they are left
MODALITIES = {  # words in a channel's name -> modality
    **dict.fromkeys(("ct", "cbct"), "CT"),
    **dict.fromkeys(("mr", "mri", "t1", "t1w", "t1c", "t1ce", "t1gd", "t2", "t2w", "flair", "dwi", "adc"), "MR"),
    **dict.fromkeys(("pet", "pt", "suv"), "PT"),
}


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a model wants: the names of its channels, a selection rule for each, and how to read.

    Without `channels` every volume is a case of its own. `series` is empty (the default score decides), one rule a
    channel, or `all`: every usable volume is a case (models of one channel).
    """

    channels: tuple[str, ...] = ()
    series: tuple[str, ...] = ()
    options: ReadOptions = field(default_factory=ReadOptions)

    @property
    def rules(self) -> tuple[Rule | None, ...]:
        """A rule or None for each channel.

        Raises:
            InputError: a rule cannot be read, or there are not as many as channels.
        """
        n = max(len(self.channels), 1)
        if not self.series:
            return (None,) * n
        if len(self.series) != n:
            said = f"--series was given {len(self.series)} time(s), but the model has {n} channel(s)"
            raise InputError(said, fix="give one rule for each channel, in their order")
        return tuple(parse_rule(text) for text in self.series)


@dataclass(frozen=True, slots=True)
class DicomCase:
    """A volume for each channel, and safe words for where they come from."""

    name: str
    channels: tuple[Source, ...]
    source: str


@dataclass(frozen=True, slots=True)
class Picked:
    """Cases, volumes that were left, and what was chosen among several."""

    cases: tuple[DicomCase, ...]
    left: tuple[Left, ...]
    notes: tuple[str, ...]


def modality_of(channel: str) -> str:
    """The DICOM modality that a channel's name speaks of, or an empty text."""
    words = channel.lower().replace("-", " ").replace("_", " ").split()
    return next((MODALITIES[word] for word in words if word in MODALITIES), "")


def volume_name(volume: SubVolume, key: bytes) -> str:
    """The keyed name of one volume."""
    return dicom_name(key, volume.series_uid if volume.of == 1 else f"{volume.series_uid}/{volume.number}")


def told(volume: SubVolume) -> str:
    """A volume in words that are safe to show."""
    return ", ".join(filter(None, (told_series(volume), volume.differs)))


def told_series(volume: SubVolume) -> str:
    """The series of a volume in words that are safe to show, and how many images of it are the volume's."""
    number = volume.shown.get("SeriesNumber", "")
    return f"DICOM {volume.modality} series{' ' + number if number else ''}, {len(volume.frames)} images"


def pick(volumes: Sequence[SubVolume], key: bytes, wanted: Wanted) -> Picked:
    """Choose the volumes to be segmented, study by study.

    Raises:
        InputError: a rule cannot be read, there are not as many rules as channels, or a channel cannot be told.
    """
    if not wanted.channels or wanted.series == (ALL,):
        if len(wanted.channels) > 1:
            said = f"--series all takes each volume alone, but the model has {len(wanted.channels)} channels"
            raise InputError(said, fix="give one rule for each channel, in their order")
        return _every(volumes, key)
    channels = [_Channel(name, rule) for name, rule in zip(wanted.channels, wanted.rules, strict=True)]
    picked = [_pick_study(members, channels, key) for members in _by_study(volumes).values()]
    return Picked(
        tuple(case for one in picked for case in one.cases),
        tuple(left for one in picked for left in one.left),
        tuple(note for one in picked for note in one.notes),
    )


def _every(volumes: Sequence[SubVolume], key: bytes) -> Picked:
    usable = [volume for volume in volumes if volume.verdict.usable]
    cases = [DicomCase(volume_name(v, key), (Source("dicom", v.paths, dicom=v),), told(v)) for v in usable]
    return Picked(tuple(cases), tuple(_refused(v, key) for v in volumes if not v.verdict.usable), ())


def _by_study(volumes: Sequence[SubVolume]) -> Mapping[str, list[SubVolume]]:
    studies: dict[str, list[SubVolume]] = {}
    for volume in volumes:
        studies.setdefault(volume.study_uid or volume.series_uid, []).append(volume)
    return studies


@dataclass(frozen=True, slots=True)
class _Channel:
    name: str
    rule: Rule | None

    @property
    def modality(self) -> str:
        return modality_of(self.name)

    def fits(self, volume: SubVolume) -> bool:
        """True if the volume is what the channel asks for, usable or not."""
        if self.rule is not None:
            return self.rule.fits(volume)
        return not self.modality or volume.modality == self.modality


def _pick_study(members: Sequence[SubVolume], channels: Sequence[_Channel], key: bytes) -> Picked:
    chosen: list[SubVolume] = []
    left: list[Left] = []
    notes: list[str] = []
    for channel in channels:
        fitting = [v for v in members if channel.fits(v) and not any(v is one for one in chosen)]
        volume, why = _choose(fitting, channel, channels)
        if volume is not None:
            chosen.append(volume)
            notes += [f"{volume_name(volume, key)}: {why}"] if why else []
        elif why:
            about = f" for channel {channel.name}" if len(channels) > 1 else ""
            left.append(Left(volume_name(members[0], key), f"[CHOOSE]{about} {why}", broken=True))
        left += [] if volume is not None or why else [_refused(v, key) for v in fitting]
    if len(chosen) < len(channels):
        return Picked((), tuple(dict.fromkeys(left)), ())
    sources = tuple(Source("dicom", volume.paths, dicom=volume) for volume in chosen)
    case = DicomCase(volume_name(chosen[0], key), sources, " + ".join(map(told, chosen)))
    left += [Left(volume_name(v, key), _why_left(v)) for v in members if not any(v is one for one in chosen)]
    return Picked((case,), tuple(left), tuple(notes))


def _choose(
    fitting: Sequence[SubVolume], channel: _Channel, channels: Sequence[_Channel]
) -> tuple[SubVolume | None, str]:
    """The channel's volume and, where there was a choice, why it; or None and why none.

    None and an empty text: all that fit are refused, and each says why itself.
    """
    alike = [c.name for c in channels if c.rule is None and c.modality == channel.modality]
    if channel.rule is None and len(channels) > 1 and (not channel.modality or len(alike) > 1):
        return None, "its name does not tell which volume it is: give --series RULE once for each channel"
    usable = [volume for volume in fitting if volume.verdict.usable]
    real = [volume for volume in fitting if not NO_VOLUME.intersection(volume.verdict.codes)]
    if not fitting:
        return None, f"no volume of its study {'fits the rule' if channel.rule else 'is ' + channel.modality}"
    if not usable:
        return None, ""
    choice = choose(usable, channel.rule, channel.modality)
    if choice.volume is not None:
        refused = len(real) - len(usable)
        passed = f"; {refused} that cannot be used passed over" if refused else ""
        return choice.volume, f"of {len(real)} volumes {choice.why}{passed}" if len(real) > 1 else ""
    listed = "; ".join(_with_number(volume) for volume in choice.candidates[:6])
    more = f" and {len(choice.candidates) - 6} more" if len(choice.candidates) > 6 else ""
    alone = ", or take each with --series all" if len(channels) == 1 else ""
    said = f"{len(choice.candidates)} volumes of its study are alike: {listed}{more}"
    return None, f"{said}; name one with --series RULE{alone}"


def _with_number(volume: SubVolume) -> str:
    return f"{told(volume)} (SeriesNumber={volume.shown.get('SeriesNumber', '?')})"


def _refused(volume: SubVolume, key: bytes) -> Left:
    verdict = volume.verdict
    reason = f"{told(volume)}: [{', '.join(verdict.codes)}] {verdict.said}"
    broken = not NO_VOLUME.intersection(verdict.codes)
    return Left(volume_name(volume, key), f"{reason}; {verdict.fix}" if verdict.fix else reason, broken)


def _why_left(volume: SubVolume) -> str:
    if volume.verdict.usable:
        return f"{told(volume)}: another volume of its study was taken"
    return f"{told(volume)}: {volume.verdict} {volume.verdict.said}"
