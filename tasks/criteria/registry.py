"""Names of criteria, and their choice by configuration, such as ``{age: huber}``."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any, TypeVar

from balancing.choices import check_choices
from balancing.registry import Registry, suggestion
from tasks.criteria.base import LabelKind, NamedCriterion

_CRITERIA: Registry[Any] = Registry("criterion")
C = TypeVar("C", bound=type)
#: What a task says of its labels; everything else is an option of the user.
_OF_THE_DATA = ("classes", "unit", "complete", "mean", "separator")
_DEFAULTS: Mapping[LabelKind, str] = {
    "classes": "cross_entropy",
    "ordered": "ordinal",
    "tags": "multi_label",
    "number": "squared_error",
    "count": "poisson",
}


def register_criterion(name: str, fits: tuple[str, ...]) -> Callable[[C], C]:
    """Decorator of a dataclass that keeps the contract of :class:`NamedCriterion`.

    Args:
        name: In configurations.
        fits: Labels, or kinds of maps, that it can be used with.

    Raises:
        ValueError: The name is taken.
    """

    def register(criterion: C) -> C:
        _CRITERIA.add(name, criterion)
        criterion.name, criterion.fits = name, fits  # type: ignore[attr-defined]
        return check_choices(name)(criterion)

    return register


def list_criteria(labels: str | None = None) -> list[str]:
    """Names of the registered criteria, sorted; of those for ``labels`` only, if given."""
    return [name for name in _CRITERIA.names() if labels is None or labels in _CRITERIA.get(name).fits]


def create_criterion(name: str, **arguments: Any) -> NamedCriterion:
    """The criterion of that name.

    Raises:
        ValueError: Unknown name, or a value out of range.
        TypeError: Unknown argument.
    """
    return _CRITERIA.get(name)(**arguments)


@dataclass(frozen=True)
class CriterionChoice:
    """A criterion with options, before the labels are known.

    Args:
        key: What messages begin with, such as ``task.criteria.age``.
        name: Of the criterion.
        options: Its arguments, without those that the labels decide.
    """

    key: str
    name: str
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def standardized(self) -> bool:
        """Whether numbers are to be standardized for it."""
        return _CRITERIA.get(self.name).standardized

    def build(self, labels: str, **facts: Any) -> NamedCriterion:
        """The criterion for labels of this kind.

        Args:
            labels: What the cells of the column mean, or the kind of a map.
            facts: ``classes``, ``unit``, ``separator``; those that the criterion has no argument for are left out.

        Raises:
            ValueError: The criterion is for other labels, or an option does not fit them.
        """
        criterion = _CRITERIA.get(self.name)
        if labels not in criterion.fits:
            raise ValueError(
                f"{self.key}: {self.name} is for {' or '.join(criterion.fits)}, and these labels are {labels}; "
                f"choose from {', '.join(list_criteria(labels))}"
            )
        known = {item.name for item in fields(criterion)}
        arguments = {**{name: fact for name, fact in facts.items() if name in known}, **self.options}
        return self._made(lambda: criterion(**arguments))

    def fit(self, criterion: NamedCriterion, target: Any) -> NamedCriterion:
        """``criterion`` fitted to the training labels. Raises ValueError if it cannot be."""
        return self._made(lambda: criterion.fitted(target))

    def _made(self, make: Callable[[], NamedCriterion]) -> NamedCriterion:
        try:
            return make()
        except (TypeError, ValueError) as error:
            raise ValueError(f"{self.key}: {error}") from None


def choose_criterion(key: str, chosen: Any) -> CriterionChoice:
    """A name, or a mapping with a name and options, checked as far as possible without labels.

    Raises ValueError for an unknown name or option, or a value out of range; messages begin with ``key``.
    """
    section = {"name": chosen} if isinstance(chosen, str) else chosen
    if not isinstance(section, Mapping) or not isinstance(section.get("name"), str):
        raise ValueError(f"{key} must be the name of a criterion, or a mapping with a name, got {chosen!r}")
    options = {str(name): value for name, value in section.items() if name != "name"}
    try:
        criterion = _CRITERIA.get(section["name"])
    except ValueError as error:
        raise ValueError(f"{key}: {error}") from None
    known = [item.name for item in fields(criterion) if item.name not in _OF_THE_DATA]
    for option in options:
        if option not in known:
            near = suggestion(option, known, "it has {}") if known else "it has none"
            raise ValueError(f"{key}: {section['name']} has no option {option!r}; {near}")
    choice = CriterionChoice(key, section["name"], options)
    choice.build(criterion.fits[0], classes=())
    return choice


def choose_criteria(key: str, criteria: Mapping[str, Any], objectives: Iterable[str]) -> dict[str, CriterionChoice]:
    """Objective -> choice, for those that ``criteria`` names.

    Raises ValueError for a name that is no objective, and as :func:`choose_criterion` does.
    """
    names = list(objectives)
    for name in criteria:
        if name not in names:
            raise ValueError(
                f"{key} names {name!r}, which is no objective; {suggestion(str(name), names, 'these are {}')}"
            )
    return {name: choose_criterion(f"{key}.{name}", chosen) for name, chosen in criteria.items()}


def default_criterion(key: str, labels: LabelKind) -> CriterionChoice:
    """The criterion for labels of this kind unless another one is chosen."""
    return CriterionChoice(key, _DEFAULTS[labels])


def criterion_state(criterion: NamedCriterion) -> dict[str, Any]:
    """Name and arguments for :func:`create_criterion`, as JSON can hold them."""
    arguments = {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(criterion).items()}  # type: ignore[call-overload]
    return {"name": criterion.name, **arguments}
