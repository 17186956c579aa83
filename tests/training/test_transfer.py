from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from medseg.errors import InputError, RunError
from medseg.files import read_record
from medseg.inference.model import ModelCard, Origin, copy_model, model_at, save_model
from medseg.networks.table import build_network
from medseg.networks.topology import NetworkSettings
from medseg.planning.fingerprint import Fingerprint
from medseg.planning.plan import Budget, Fold, Plan, Region, Splits, Structure
from medseg.training.job import How
from medseg.training.run import train
from medseg.training.transfer import adapt, origin_of, scans_of, starting_model
from tests.networks.build import FEW, PATCHES
from tests.tiny import CPU, card_of, configuration, last, plan_of, planned_run, untrained_run

UNET = configuration().network


def plan_with(settings: NetworkSettings, channels: Sequence[str], structures: Sequence[str]) -> Plan:
    """A plan for a network of these settings, its inputs and answers named."""
    made = settings.model_copy(update={"in_channels": len(channels), "classes": len(structures) + 1})
    named = tuple(Structure(value=k, name=name) for k, name in enumerate(structures, 1))
    how = configuration(channels=len(channels)).model_copy(update={"network": made})
    return plan_of(how).model_copy(update={"channels": tuple(channels), "structures": named})


def saved(folder: Path, plan: Plan, seed: int = 5) -> nn.Module:
    folder.mkdir()
    network = build_network(plan.configuration.network, seed)
    save_model(folder, network, card_of(plan.model_copy(update={"fingerprint": "of the model"})))
    return network.eval()


def fresh(plan: Plan) -> nn.Module:
    return build_network(plan.configuration.network, 1).eval()


@torch.no_grad()
def answer(network: nn.Module, image: Tensor) -> Tensor:
    found: Tensor = network.eval()(image)
    return found


def test_the_same_network_is_loaded_whole(tmp_path: Path) -> None:
    plan = plan_with(UNET, ["CT"], ["liver", "kidney"])
    model, network = saved(tmp_path / "model", plan), fresh(plan)
    found = adapt(network, tmp_path / "model", plan)
    assert (found.adapted, found.left, found.warnings) == ((), (), ())
    assert found.told == ("100.0 % of the weights are the model's",)
    assert set(found.loaded) == set(model.state_dict())
    for ours, theirs in zip(network.state_dict().values(), model.state_dict().values(), strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize("name", FEW)
def test_every_kind_answers_as_the_model_at_first_whatever_is_new(tmp_path: Path, name: str) -> None:
    """A channel more, in front, and a structure more, in between: what both know is answered as by the model."""
    settings = FEW[name]
    theirs = plan_with(settings, ["T1", "T2"], ["liver", "kidney"])
    ours = plan_with(settings, ["FLAIR", "T1", "T2"], ["liver", "spleen", "Kidney"])
    model, network = saved(tmp_path / "model", theirs), fresh(ours)
    before = answer(network, torch.zeros(1, 3, *PATCHES[name][0]))
    found = adapt(network, tmp_path / "model", ours)
    assert found.left == ()
    assert found.adapted
    image = torch.randn(1, 3, *PATCHES[name][0], generator=torch.Generator().manual_seed(0))
    was, now = answer(model, image[:, 1:]), answer(network, image)
    torch.testing.assert_close(now[:, [0, 1, 3]], was, rtol=1e-3, atol=1e-3)
    assert not torch.allclose(now[:, 2], was[:, 1])
    assert before.shape == now.shape
    assert "channel FLAIR: new" in found.told
    assert "structure spleen: new, starts fresh" in found.told
    assert not found.told[0].startswith("100.0 %")


def test_structures_that_only_the_model_knows_are_left_out(tmp_path: Path) -> None:
    theirs = plan_with(UNET, ["CT"], ["liver", "spleen", "kidney"])
    ours = plan_with(UNET, ["CT"], ["kidney", "liver"])
    model, network = saved(tmp_path / "model", theirs), fresh(ours)
    found = adapt(network, tmp_path / "model", ours)
    image = torch.randn(1, 1, 8, 8, 8)
    torch.testing.assert_close(answer(network, image), answer(model, image)[:, [0, 3, 1]])
    assert "structure spleen: of the model alone, left out" in found.told


def test_of_as_many_structures_only_those_of_the_same_name_are_taken(tmp_path: Path) -> None:
    theirs, ours = plan_with(UNET, ["CT"], ["liver", "spleen"]), plan_with(UNET, ["CT"], ["lung", "liver"])
    model, network = saved(tmp_path / "model", theirs), fresh(ours)
    lung = network.heads[0].weight[1].clone()  # type: ignore[union-attr, index]
    adapt(network, tmp_path / "model", ours)
    image = torch.randn(1, 1, 8, 8, 8)
    torch.testing.assert_close(answer(network, image)[:, [0, 2]], answer(model, image)[:, [0, 1]])
    assert torch.equal(network.heads[0].weight[1], lung)  # type: ignore[union-attr, index]


def test_channels_of_other_names(tmp_path: Path) -> None:
    """As many: in their order. Otherwise the mean of the model's kernels, so that all alike sum up as before."""
    theirs = plan_with(UNET, ["T1", "T2"], ["liver"])
    model = saved(tmp_path / "model", theirs)
    image = torch.randn(1, 1, 8, 8, 8)
    as_many = plan_with(UNET, ["b0", "b1000"], ["liver"])
    network = fresh(as_many)
    told = adapt(network, tmp_path / "model", as_many).told
    whose = ("channel b0: begins with the weights of T1", "channel b1000: begins with the weights of T2")
    assert told == ("100.0 % of the weights are the model's", *whose)
    two = torch.cat([image, image**2], 1)
    torch.testing.assert_close(answer(network, two), answer(model, two))
    for n in (1, 3):
        plan = plan_with(UNET, [f"b{k}" for k in range(n)], ["liver"])
        network = fresh(plan)
        found = adapt(network, tmp_path / "model", plan)
        assert found.left == ()
        assert found.told[-1].endswith(": begins with the mean of the weights of T1, T2")
        alike, model_alike = image.repeat(1, n, 1, 1, 1), image.repeat(1, 2, 1, 1, 1)
        torch.testing.assert_close(answer(network, alike), answer(model, model_alike), rtol=1e-4, atol=1e-5)


def test_regions_and_structures_of_one_name(tmp_path: Path) -> None:
    theirs = plan_with(UNET, ["MR"], ["core", "oedema"])
    model = saved(tmp_path / "model", theirs)
    regions = (Region(name="whole", values=(1, 2), value=2), Region(name="core", values=(1,), value=1))
    ours = plan_with(UNET, ["MR"], ["core"]).model_copy(update={"regions": regions})  # two outputs, no background
    network = fresh(ours)
    found = adapt(network, tmp_path / "model", ours)
    image = torch.randn(1, 1, 8, 8, 8)
    torch.testing.assert_close(answer(network, image)[:, 1], answer(model, image)[:, 1])
    assert "structure whole: new, starts fresh" in found.told


def test_what_does_not_fit_is_told_and_starts_fresh(tmp_path: Path) -> None:
    theirs = plan_with(UNET, ["CT"], ["liver"])
    saved(tmp_path / "model", theirs)
    wider = UNET.model_copy(update={"features": (4, 8, 12)})
    plan = plan_with(wider, ["CT"], ["liver"])
    network, before = fresh(plan), fresh(plan).state_dict()
    found = adapt(network, tmp_path / "model", plan)
    assert found.left
    assert found.loaded
    assert not set(found.left) & set(found.loaded)
    for name in found.left:
        assert torch.equal(network.state_dict()[name], before[name])
    assert any(line.startswith("not in the model, so they start fresh: ") for line in found.told)


def test_a_model_that_has_nothing_in_common_is_refused(tmp_path: Path) -> None:
    saved(tmp_path / "model", plan_with(configuration(dims=2).network, ["CT"], ["liver"]))
    plan = plan_with(UNET, ["CT"], ["liver"])
    network = fresh(plan)
    with pytest.raises(InputError, match="has no layer in common with the planned network; plan with --init"):
        adapt(network, tmp_path / "model", plan)
    for ours, untouched in zip(network.state_dict().values(), fresh(plan).state_dict().values(), strict=True):
        assert torch.equal(ours, untouched)


def test_what_the_network_will_see_otherwise_is_warned_of(tmp_path: Path) -> None:
    theirs = plan_with(UNET, ["CT"], ["liver"])
    saved(tmp_path / "model", theirs)
    how = theirs.configuration
    ct = how.preprocessing.channels[0].model_copy(update={"kind": "ct"})
    settings = how.preprocessing.model_copy(update={"spacing_mm": (2.0, 2.0, 2.0), "channels": (ct,)})
    ours = theirs.model_copy(update={"configurations": {"3d": how.model_copy(update={"preprocessing": settings})}})
    found = adapt(fresh(ours), tmp_path / "model", ours)
    assert found.warnings == (
        "voxels of 2 mm where the model saw 1 mm; plan with --init to see scans as it did",
        "intensities of CT are scaled otherwise than for the model; plan with --init to see scans as it did",
    )


def test_a_model_that_knows_the_cases_already_is_warned_of(tmp_path: Path) -> None:
    theirs = plan_with(UNET, ["CT"], ["liver"])
    saved(tmp_path / "model", theirs)
    ours = theirs.model_copy(update={"fingerprint": "of the model"})
    (warned,) = adapt(fresh(ours), tmp_path / "model", ours).warnings
    assert warned.startswith("the model was trained on these very cases")


def test_the_share_counts_what_is_fresh_in_stem_and_heads(tmp_path: Path) -> None:
    saved(tmp_path / "model", plan_with(UNET, ["T1"], ["liver"]))
    ours = plan_with(UNET, ["T1", "T2"], ["liver", "spleen", "kidney"])
    network = fresh(ours)
    found = adapt(network, tmp_path / "model", ours)
    weights = network.state_dict()
    heads = sum(tensor.numel() for name, tensor in weights.items() if name.startswith("heads."))
    (stem,) = [name for name in found.adapted if not name.startswith("heads.")]
    whole = sum(tensor.numel() for tensor in weights.values())
    share = 1000 * (whole - heads // 2 - weights[stem].numel() // 2) // whole / 10
    assert share < 100
    assert found.told[0] == f"{share:.1f} % of the weights are the model's"


def test_scans_are_known_again_one_by_one_whatever_their_names(tmp_path: Path) -> None:
    """The cases of two runs overlap in part, by other names; what the model itself began with counts too."""
    run, other = planned_run(tmp_path / "a", n=4), planned_run(tmp_path / "b", n=6)
    looked = read_record(other / "fingerprint.json", Fingerprint)
    renamed = [c.model_copy(update={"case": f"patient{c.case[-1]}"}) for c in looked.cases]
    (other / "fingerprint.json").write_text(looked.model_copy(update={"cases": tuple(renamed)}).model_dump_json())

    first = origin_of(run, Fold(train=("case0", "case1", "case2"), validation=("case3",)), None)
    assert (len(first.scans), first.init_sha256, first.known) == (3, "", 0)
    model, plan = tmp_path / "model", plan_with(UNET, ["CT"], ["liver"])
    model.mkdir()
    save_model(model, fresh(plan), card_of(plan).model_copy(update={"origin": first}))
    card = read_record(model / "model.json", ModelCard)
    assert card.origin == first
    validation = ("patient1", "patient2", "patient3", "patient5")
    second = origin_of(other, Fold(train=("patient0", "patient4"), validation=validation), model)
    assert (second.init_sha256, second.known) == (card.weights_sha256, 2)
    assert set(second.scans) == {*first.scans, *scans_of(other)["patient4"]}
    assert len(second.scans) == 4

    ours = plan.model_copy(update={"fingerprint": "another"})
    (warned,) = adapt(fresh(ours), model, ours, known=2).warnings
    assert warned.startswith("the model was trained on 2 validation cases of this fold: scores of cases")
    assert adapt(fresh(plan), model, plan, known=0).warnings == ()  # the same data set, but none of its cases


def test_a_card_tells_what_training_began_with(tmp_path: Path) -> None:
    run = planned_run(tmp_path)
    folds = read_record(run / "splits.json", Splits).folds
    last(train(run, ["0"], Budget(steps=1), CPU))
    first = run / "folds" / "3d" / "0"
    card = read_record(first / "model.json", ModelCard)
    assert card.origin == Origin(scans=tuple(sorted(s for case in folds[0].train for s in scans_of(run)[case])))
    assert len(card.origin.scans) == card.trained_on
    last(train(run, ["1"], Budget(steps=1), CPU, how=How(init=first)))
    origin = read_record(run / "folds" / "3d" / "1" / "model.json", ModelCard).origin
    assert origin.init_sha256 == card.weights_sha256
    assert origin.known == len(folds[1].validation)
    assert [f.known for f in last(train(run, ["0", "1"], Budget(steps=1), CPU)).folds] == [0, origin.known]
    old = card.model_dump(mode="json", exclude={"origin"})
    assert ModelCard.model_validate(old).origin == Origin()


def test_where_a_model_is_looked_for(tmp_path: Path) -> None:
    run = untrained_run(tmp_path)
    first = run / "folds" / "3d" / "0"
    assert model_at(run) == model_at(first) == first
    whole = first.parent / "all"
    whole.mkdir()
    card = copy_model(first, whole)
    assert model_at(run) == whole
    for nothing in (tmp_path, tmp_path / "none"):
        with pytest.raises(InputError, match="is neither a trained fold nor a run of medseg"):
            model_at(nothing)

    plan = card.plan
    assert starting_model(run, plan) is None
    assert starting_model(run, plan, first) == first
    asked = plan.model_copy(update={"request": plan.request.model_copy(update={"init": card.weights_sha256})})
    with pytest.raises(RunError, match="the model that training begins with is missing; run medseg plan again"):
        starting_model(run, asked)
    copy_model(first, run / "init")
    assert starting_model(run, asked) == run / "init"
    assert starting_model(run, asked, whole) == whole
    (first / "model.safetensors").write_bytes(b"cut")
    with pytest.raises(InputError, match=r"the weights are not those that model\.json names"):
        adapt(fresh(plan), first, plan)
