"""ProGMLP: MLP students in a row, each fed by the one before, to stop after as many as one can pay.

Source: Lu et al., "ProGMLP: A Progressive Framework for GNN-to-MLP Knowledge Distillation",
arXiv 2507.19031 (AAAI 2026); its code is not public. K students are trained one after the other.

* Structure (Eq. 1-2): student k sees [x, H_{k-1}], H_{k-1} being the last hidden states (after
  ReLU) of student k - 1, a constant while k is trained, and H_0 = 0; it starts from the parameters
  of k - 1. Early stopping is each student's own.
* Distillation (Eq. 3-4), the GNN being the teacher of every student, in one full-batch step:
  k^beta * (alpha * mean CE over train nodes + (1 - alpha) * mean KL over all observed nodes).
* Mixup (Eq. 5-8), added to it: CE of lambda * [x_i, H_i] + (1 - lambda) * [x_j, H_j] with the mixed
  labels, i over the train nodes, j a random permutation of them.
* Inference (Eq. 9-10): p = sum_j w_j softmax(f_j), w = softmax(c_1 .. c_m), where c_k is the
  mean over the unlabelled nodes of student k's largest probability; it stops after the first m with
  c_m > `exit_threshold`.

Variants: `1` .. `K` run that many students; `exit` runs as many as the threshold asks for, decided
when the fit ends, on the observed unlabelled nodes (`answer` decides for the batch at hand), and
`exit0.3` as many as the threshold 0.3 asks for, from the same fit (`exit_thresholds`); `node0.9`
lets every node stop by itself (its own c_k > 0.9, and w from its own c): this is ours.

What the paper leaves open, and how it is read here. "k beta" is a power. KL is KL(teacher ||
student), T = 1. The permutation is drawn every epoch. lambda starts at 0, follows the moving
average of the mixup loss from student to student (`mixup_update`) and is clamped to [0, 0.5]: Eq. 7
as printed makes it grow while the loss is ABOVE the target, the text says that it grows when the
loss falls; `mixup_rule` has both. alpha, beta, gamma, the threshold, epochs and the K of each table
are not given: the defaults are ours. Nor is what its ablation puts in the place of a part: here,
without `structure` the students are drawn apart and see x alone; without `progressive_distillation`
every student has weight 1; without `mixup` that loss is absent.

Differs from the paper: student 1 has no weights for H_0 = 0, which no gradient could reach; student
2 gets those that the copy lacks as drawn (`previous_start`). Around Eq. 4 the options of recipe.py
are there (schedules, encodings, ...), all off.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from bench import recipe, stages, train
from bench.graph import Graph, Task
from bench.hparams import derive_seed, hp
from bench.method import Batch, FitLog, Method, Output, Step
from bench.progressive import Stage, feed
from bench.recipe import RecipeConfig


class _Prefix(Method):
    """The first m students, and the weighted mean of their probabilities."""

    def __init__(self, owner: "ProGMLP", members: list[Stage], confidences: Tensor) -> None:
        sizes = (owner.num_features, owner.num_classes, owner.num_nodes)
        super().__init__(owner.config, *sizes)
        self.stages = nn.ModuleList(members)
        self.register_buffer("confidences", confidences)

    def forward(self, graph: Graph, nodes: Tensor | None = None) -> Output:
        """Compute `nodes` with all of its students."""
        return _together(self, graph, nodes)


def _outputs(model: Any, graph: Graph, nodes: Tensor | None) -> Iterator[Output]:
    """Run a model's students in turn, as long as somebody asks for the next one."""
    if len(model.stages) == 1:  # nobody is fed, so no graph of their own is needed
        yield model.stages[0](graph, nodes)
        return
    own = graph if nodes is None else stages.rows_of(graph, nodes)
    plain = own.extra
    before: tuple[Stage, Output] | None = None
    for stage in model.stages:
        if before is not None and model.config.structure:
            own = feed(own, plain, before[0].represent(before[1]))
        before = stage, stage(own)
        yield before[1]


def _together(model: Any, graph: Graph, nodes: Tensor | None) -> Output:
    """Return the log of Eq. 10 over all of a model's students, and the last hidden states."""
    outputs = list(_outputs(model, graph, nodes))
    weights = model.confidences.softmax(0)
    return Output(stages.answer([x.logits for x in outputs], weights), outputs[-1].hidden)


class _NodeExit(_Prefix):
    """All students, of which every node runs as many as it takes to be sure (ours)."""

    threshold = 1.0

    def forward(self, graph: Graph, nodes: Tensor | None = None) -> Output:
        """Compute `nodes`; student k + 1 gets those alone that k is not sure of."""
        own = graph if nodes is None else stages.rows_of(graph, nodes)
        size, config = own.num_nodes, self.config
        here = torch.arange(size, device=own.adj.device)  # the place of each row still under way
        logits = torch.empty(size, self.num_classes, device=own.adj.device)
        hidden = torch.empty(size, config.width, device=own.adj.device)  # type: ignore[attr-defined]
        plain = own.extra
        said: list[tuple[Tensor, Tensor]] = []  # log-probabilities and confidences of each student
        for k, stage in enumerate(self.stages, start=1):
            output = stage(own)
            said.append((stages.log_probs(output.logits), stages.confidence(output.logits)))
            done = said[-1][1] > self.threshold
            if k == len(self.stages):
                done = torch.ones_like(done)
            weights = torch.stack([sure[done] for _, sure in said]).softmax(0)  # [k, done]
            logits[here[done]] = stages.mix([p[done] for p, _ in said], weights)
            hidden[here[done]] = output.hidden[done]
            left = (~done).nonzero().squeeze(1)
            if not left.numel():
                break
            said = [(p[left], sure[left]) for p, sure in said]
            here, own = here[left], stages.rows_of(own, left)
            plain = None if plain is None else plain[left]
            if config.structure:  # type: ignore[attr-defined]
                own = feed(own, plain, stage.represent(output)[left])  # type: ignore[operator]
        return Output(logits, hidden)


class ProGMLP(Method):
    """Progressive MLP students."""

    needs_teacher: ClassVar[bool] = True
    confidences: Tensor

    @dataclass(frozen=True)
    class Config(RecipeConfig):
        """Hyper-parameters of ProGMLP; those of the recipe are every student's own."""

        num_layers: int = hp(2, low=2, high=16, search=(2, 3))  # L: H takes a hidden layer
        max_epochs: int = hp(500, low=1, high=100_000)  # E1, of each student
        batch_size: int = hp(0, low=0, high=1_000_000)  # 0: full batch
        schedule: str = hp("mean", choices=("steps", "sum", "mean"))
        label_weight: float = hp(0.1, low=0.0, high=1.0, search=(0.0, 0.7))  # alpha, Eq. 4
        num_stages: int = hp(4, low=1, high=16, search=(2, 6))  # K
        structure: bool = hp(True, choices=(False, True))
        previous_start: str = hp("drawn", choices=("drawn", "zero"))  # of H_1's weights in f_2
        progressive_distillation: bool = hp(True, choices=(False, True))
        distillation_power: float = hp(0.5, low=0.0, high=1.0)  # beta, Eq. 4
        mixup: bool = hp(True, choices=(False, True), search=[False, True])
        mixup_start: float = hp(0.0, low=0.0, high=0.5)  # lambda_1
        mixup_rate: float = hp(0.1, low=0.0, high=1.0)  # gamma, Eq. 7
        mixup_target: float = hp(0.1, low=0.0, high=10.0)  # tau, Eq. 7
        mixup_momentum: float = hp(0.1, low=0.0, high=1.0)  # sigma, Eq. 8
        mixup_rule: str = hp("intent", choices=("intent", "printed"))
        mixup_update: str = hp("stage", choices=("stage", "epoch"))
        scale_mixup: bool = hp(False, choices=(False, True))  # k^beta on Eq. 6, as Fig. 2 draws it
        exit_threshold: float = hp(0.75, low=0.0, high=1.0)  # of `exit`; the paper scans 0 to 0.75
        # Of more of its kind, `exit0.3` ..., and of `node0.5` ...: a threshold names its variant.
        exit_thresholds: tuple[float, ...] = hp((), low=0.0, high=1.0, distinct=True)
        node_thresholds: tuple[float, ...] = hp((0.5, 0.7, 0.9), low=0.0, high=1.0, distinct=True)

    def __init__(self, config: Any, num_features: int, num_classes: int, num_nodes: int) -> None:
        super().__init__(config, num_features, num_classes, num_nodes)
        sizes = (num_features, num_classes, num_nodes)
        count = config.num_stages
        self.stages = nn.ModuleList([Stage(config, sizes, k) for k in range(1, count + 1)])
        self.register_buffer("confidences", torch.zeros(count))  # c_1 .. c_K, Eq. 9

    def forward(self, graph: Graph, nodes: Tensor | None = None) -> Output:
        """Compute `nodes` with all students."""
        return _together(self, graph, nodes)

    @torch.no_grad()
    def answer(
        self, graph: Graph, nodes: Tensor | None = None, *, threshold: float
    ) -> tuple[Output, int]:
        """Compute a batch of `nodes` with as many students as it takes to be sure of the batch.

        Eq. 9-10 with the mean confidence of this very batch, whatever `exit_threshold` is.

        Returns:
            The outputs, and how many students ran.
        """
        said, sure = [], []
        for output in _outputs(self, graph, nodes):
            said.append(output.logits)
            sure.append(stages.confidence(output.logits).mean())
            if sure[-1] > threshold:
                break
        logits = stages.answer(said, torch.stack(sure).softmax(0))
        return Output(logits, output.hidden), len(said)

    def begin_epoch(self, task: Task, step: Step) -> None:
        """Prepare an epoch of every student."""
        for stage, own in self._tasks(task):
            stage.begin_epoch(own, step)

    def batches(self, task: Task, step: Step) -> Iterator[Batch]:
        """Yield the batches of the first student, for all of them."""
        first: Any = self.stages[0]
        for batch in first.batches(task, step):
            for stage in self.stages:
                setattr(stage, "sampling", getattr(first, "sampling", None))  # noqa: B010
            yield batch

    def loss(self, task: Task, batch: Batch, step: Step) -> Tensor | None:
        """Return the sum of all students' losses as they stand; `fit` trains them one by one."""
        values = [stage.loss(own, batch, step) for stage, own in self._tasks(task)]
        given = [value for value in values if value is not None]
        return torch.stack(given).sum() if given else None

    def _tasks(self, task: Task) -> Iterator[tuple[Any, Task]]:
        """Yield every student with what it may see."""
        for stage in self.stages:
            yield stage, task
            if stage is not self.stages[-1]:
                task = self._next_task(task, stage)

    @torch.no_grad()
    def _next_task(self, task: Task, stage: Any, output: Output | None = None) -> Task:
        """Return the task of the student after `stage`: H is a constant, made without dropout."""
        if not self.config.structure:  # type: ignore[attr-defined]
            return task
        training = stage.training
        hidden = stage.eval().represent(output or stage(task.graph))
        stage.train(training)
        extra = task.graph.extra
        columns = self.num_features - task.graph.num_features  # of encodings
        plain = extra[:, :columns] if extra is not None and columns else None
        return replace(task, graph=feed(task.graph, plain, hidden))

    def fit(self, task: Task) -> FitLog:
        """Train the students in turn; the log has their epochs in a row, and the last lambdas."""
        config: Any = self.config
        whole = FitLog({"stage": [], "mixup_share": []}, 0, {})
        own, share = task, config.mixup_start
        before: Stage | None = None
        for k, stage in enumerate(self.stages, start=1):
            assert isinstance(stage, Stage)
            if before is not None and config.structure:
                stage.inherit(before)
            stage.share, stage.average = share, None
            _extend(whole, train.fit(stage, own, final=k == len(self.stages)), k, stage)
            if config.mixup:
                whole.numbers[f"mixup_share_{k}"] = stage.share
            share = stage.next_share() if config.mixup_update == "stage" else stage.share
            output = self._assess(own, stage, k)
            if k < len(self.stages):
                own = self._next_task(own, stage, output)
                own = replace(own, seed=derive_seed(task.seed, "stage", k + 1))
            before = stage
        self.eval()
        return whole

    @torch.no_grad()
    def _assess(self, task: Task, stage: Any, k: int) -> Output:
        """Note a trained student's confidence in the observed nodes without a label (Eq. 9)."""
        output: Output = stage(task.graph)
        labelled = torch.zeros(task.num_nodes, dtype=torch.bool, device=output.logits.device)
        labelled[task.split.train] = True
        sure = stages.confidence(output.logits)
        self.confidences[k - 1] = sure[~labelled].mean() if not labelled.all() else sure.mean()
        return output

    def deploy(self) -> dict[str, Method]:
        """Ship every prefix of the students, and the forms that stop early."""
        config: Any = self.config
        light: Any = [recipe.shipped(stage) for stage in self.stages]  # type: ignore[arg-type]
        forms: dict[str, Method] = {}
        for threshold in config.node_thresholds:
            form = _NodeExit(self, light, self.confidences)
            form.threshold = threshold
            forms[f"node{threshold:g}"] = form
        stops = {f"exit{threshold:g}": threshold for threshold in config.exit_thresholds}
        stops["exit"] = config.exit_threshold
        sure = self.confidences.tolist()
        counts = {name: stages.exit_stage(sure, threshold) for name, threshold in stops.items()}
        counts.update({str(m): m for m in range(1, len(light) + 1)})
        for name, m in counts.items():  # the whole comes last
            forms[name] = _Prefix(self, light[:m], self.confidences[:m])
        return forms


def _extend(whole: FitLog, log: FitLog, k: int, stage: Stage) -> None:
    """Append the log of student k: epochs count on, seconds add up."""
    start = len(whole.history["stage"])
    count = len(log.history["epoch"])
    for name, values in log.history.items():
        moved = [start + epoch for epoch in range(count)] if name == "epoch" else values
        whole.history.setdefault(name, []).extend(moved)
    whole.history["stage"].extend([float(k)] * count)
    whole.history["mixup_share"].extend([stage.share] * count)
    whole.best_epoch = start + log.best_epoch
    for name, seconds in log.seconds.items():
        whole.seconds[name] = whole.seconds.get(name, 0.0) + seconds
    whole.seconds[f"stage_{k}"] = sum(log.seconds.values())
