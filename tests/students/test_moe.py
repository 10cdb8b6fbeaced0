import torch

from bench import registry
from bench.expert_load import diagnostics
from bench.students.moe import MoE
from tests import toys


def task():
    logits = torch.randn(30, 3, generator=torch.Generator().manual_seed(5))
    return toys.with_teacher(toys.task(toys.random_graph(), list(range(7)), [7, 8, 9]), logits)


def make(**options) -> MoE:
    torch.manual_seed(0)
    values = {"hidden_dim": 8, "max_epochs": 3, "warmup_epochs": 4, **options}
    return MoE(MoE.Config(**values), 12, 3, 30)


def test_k_experts_are_chosen_and_one_more_as_the_code_does():
    for off_by_one, expected in ((False, 3), (True, 4)):
        found = diagnostics(make(official_off_by_one=off_by_one), toys.random_graph())
        assert [layer["experts"].shape[1] for layer in found] == [expected, expected]
    assert diagnostics(make(num_experts=2), toys.random_graph())[0]["experts"].shape[1] == 2


def test_a_fit_trains_the_experts_on_chunks_first_and_not_the_router():
    model, given = make(weight_decay=0.05), task()
    before = {k: v.detach().clone() for k, v in model.named_parameters()}
    model.config = MoE.Config(**{**vars(model.config), "max_epochs": 1, "lr": 1e-5})
    log = model.fit(given)
    assert len(log.history["warmup_loss"]) == 4
    for name, value in model.named_parameters():
        moved = (value - before[name]).abs().max()
        assert moved < 1e-4 if "router" in name else moved > 1e-5, name


def test_parameters_are_those_of_the_formula():
    width, experts = 8, 8  # E (ab + b) + aH + H + HE + 2
    sizes = [(12, 8), (8, 3)]
    expected = sum(
        experts * (a * b + b) + a * width + width + width * experts + 2 for a, b in sizes
    )
    assert make().num_parameters() == expected


def test_presets_resolve():
    where = {"dataset": "pubmed", "split": "public", "setting": "transductive", "teacher": "sage"}
    found = registry.configure("student", "moe", {}, where)
    assert (found["dropout"], found["load_balance_weight"], found["top_k"]) == (0.6, 0.025, 3)
