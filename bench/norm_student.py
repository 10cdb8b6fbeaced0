"""What NORM's students share: a last layer behind a feature transform, its target, its merge.

A subclass names its network and the list of layers in it (`tower`), and adds
`share * self.matching(...)` to its loss. The transform is as wide as N copies of the teacher's
hidden states, which no configuration tells: it is drawn when the first task comes, with the task's
seed, or when stored weights do. Until then, and once shipped, there is the plain student alone.

Source: NORM, arXiv 2305.13803; see norm_transform.py.
"""

import copy
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from torch import Tensor, nn

from bench import norm_transform, recipe, train
from bench.graph import Task, TeacherOutput
from bench.hparams import TrainConfig, hp
from bench.layers import Linear
from bench.method import FitLog, Method, Step
from bench.norm_merge import merge
from bench.norm_transform import BATCH_NORMS, FeatureTransform, Transformed


@dataclass(frozen=True)
class TransformConfig(TrainConfig):
    """Hyper-parameters of the feature transform and of the matching."""

    # N: copies of the teacher's states to match; 0: no transform at all, the plain student.
    num_segments: int = hp(8, low=0, high=256, search=[1, 2, 4, 8, 16])
    # alpha, of the matching; 0: the transform alone.
    matching_weight: float = hp(1.0, low=0.0, high=1000.0, search=[0.01, 0.1, 1.0, 10.0])
    matching_schedule: bool = hp(True, choices=(False, True))  # a(t): low at both ends
    residual: bool = hp(True, choices=(False, True))  # R = S + ..., else the "plain" transform
    batch_norm: str = hp("both", choices=BATCH_NORMS)  # after which of the two products
    standardise: bool = hp(True, choices=(False, True))  # T by column, over the observed nodes
    target_relu: bool = hp(True, choices=(False, True))  # T = ReLU(the teacher's hidden states)
    normalise_logits: bool = hp(False, choices=(False, True))  # 2.5 LayerNorm, before CE and KL


@dataclass(frozen=True, eq=False)
class _Target:
    """What a fit takes from its teacher: the logits as the losses read them, and T [N, H']."""

    asked: TeacherOutput
    teacher: TeacherOutput
    states: Tensor


class TransformedStudent(Method):
    """A student that is fitted with a feature transform before its last layer, and ships none."""

    needs_teacher: ClassVar[bool] = True
    tower: ClassVar[tuple[str, str]]  # the network's attribute, and that of its list of layers

    def __init__(self, config: Any, num_features: int, num_classes: int, num_nodes: int) -> None:
        super().__init__(config, num_features, num_classes, num_nodes)
        self._target: _Target | None = None

    @classmethod
    def knowledge_of(cls, config: Mapping[str, Any]) -> tuple[str, ...]:
        """Return "middle" too where hidden states are matched."""
        output, *others = super().knowledge_of(config)
        matched = config.get("num_segments") and config.get("matching_weight")
        return (output, "middle", *others) if matched else (output, *others)

    @property
    def layers(self) -> nn.ModuleList:
        """The layers of the network, the last one behind the transform while fitting."""
        found: nn.ModuleList = getattr(getattr(self, self.tower[0]), self.tower[1])
        return found

    @property
    def head(self) -> Transformed | None:
        """The last layer with its transform, or None where there is none (yet)."""
        last = self.layers[-1]
        return last if isinstance(last, Transformed) else None

    # ---- the transform ----------------------------------------------------------------------

    def prepare(self, task: Task) -> None:
        """Draw the transform for the task's teacher, where there is none yet."""
        if self.config.num_segments and self.head is None:  # type: ignore[attr-defined]
            assert task.teacher is not None
            with train.seeded(task.seed, "transform"):
                self._insert(task.teacher.hidden.shape[1])

    def _insert(self, target: int) -> None:
        """Put a new transform for teacher's states of this width before the last layer."""
        config: Any = self.config
        layer: Any = self.layers[-1]
        weight = (layer if isinstance(layer, Linear) else layer.linear).weight
        transform = FeatureTransform(
            weight.shape[0],
            target,
            config.num_segments,
            batch_norm=config.batch_norm,
            residual=config.residual,
        )
        self.layers[-1] = Transformed(transform.to(weight.device), layer).train(self.training)

    def load_state_dict(
        self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False
    ) -> Any:
        """Take stored weights; a transform among them says how wide the teacher was."""
        last = len(self.layers) - 1
        wide = state_dict.get(f"{'.'.join(self.tower)}.{last}.transform.first.weight")
        if wide is not None and self.head is None:
            self._insert(wide.shape[1] // self.config.num_segments)  # type: ignore[attr-defined]
        return super().load_state_dict(state_dict, strict, assign)

    def fit(self, task: Task) -> FitLog:
        """Draw the transform, then train."""
        self.prepare(task)
        return train.fit(self, task)

    def deploy(self) -> dict[str, Method]:
        """Ship the plain student: the transform is merged into the last layer.

        Raises:
            ValueError: in training mode.
        """
        light: Any = recipe.shipped(self)
        light._target = None
        if self.head is not None:
            merged = merge(self.head.transform, self.head.layer)
            name, layers = self.tower
            network = copy.copy(getattr(self, name))
            plain = nn.ModuleList([*self.layers[:-1], merged])
            network._modules = {**network._modules, layers: plain}
            light._modules = {**light._modules, name: network}
        return {"": light}

    # ---- the loss ---------------------------------------------------------------------------

    def seen(self, task: Task) -> Task:
        """Return the task with the teacher's logits as the losses read them."""
        teacher = self._of(task).teacher
        return task if teacher is task.teacher else replace(task, teacher=teacher)

    def target(self, task: Task) -> Tensor:
        """Return T [N, H'], what each segment is matched to: fixed, from observed nodes alone."""
        return self._of(task).states

    def _of(self, task: Task) -> _Target:
        config: Any = self.config
        known, asked = self._target, task.teacher
        if known is not None and (asked is known.asked or asked is known.teacher):
            return known
        assert asked is not None
        states = asked.hidden.relu() if config.target_relu else asked.hidden
        states = norm_transform.standardise(states) if config.standardise else states
        teacher = asked
        if config.normalise_logits:
            logits = norm_transform.normalise_logits(asked.logits)
            teacher = TeacherOutput(logits, lambda: asked.model, lambda: asked.hidden)
        self._target = _Target(asked, teacher, states.detach())
        return self._target

    def matching(self, task: Task, nodes: Tensor, step: Step) -> Tensor:
        """Return a(t) * matching_weight * sum_i MSE(E_i, T) of the last forward, of `nodes`."""
        config: Any = self.config
        segments = self.head.take() if self.head is not None else None
        assert segments is not None, "the forward that came before was not one of training"
        share = config.matching_weight
        if config.matching_schedule:
            share *= norm_transform.matching_share(step.epoch, step.max_epochs)
        return share * segments.loss(self.target(task)[nodes])

    @property
    def matches(self) -> bool:
        """Whether there is anything to match."""
        config: Any = self.config
        return bool(config.num_segments and config.matching_weight)
