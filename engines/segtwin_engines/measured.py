"""Something that engines compute, and how far each is from the float64 run."""

from __future__ import annotations

from dataclasses import dataclass

from segtwin.noise import BOUND

from segtwin_engines.contestants import AS_CAFFE


@dataclass
class Measured:
    """A blob, a gradient, or a parameter after some steps, of one image."""

    name: str
    """Of the blob, or of the parameter in the hub."""
    shape: tuple[int, ...]
    largest: float
    """Largest value; of a parameter after some steps, how far it moved at most."""
    floor: float
    """Noise floor, relative to `largest`."""
    default_bound: float
    """Noise floors that default kernels may be off here."""
    errors: dict[str, float]
    """Engine → its error in noise floors; an engine that does not compute it is not there."""
    what: str = "blob"
    """blob, gradient, parameter or loss."""

    def bound(self, engine: str) -> float:
        """Noise floors that an engine may be off here."""
        return BOUND if engine in AS_CAFFE else self.default_bound

    def missed(self, engine: str) -> bool:
        """Whether an engine is beyond its bound, or gave NaN."""
        return engine in self.errors and not self.errors[engine] < self.bound(engine)

    @property
    def missed_by(self) -> list[str]:
        """The engines that are beyond their bounds."""
        return [engine for engine in self.errors if self.missed(engine)]

    @property
    def worst_engine(self) -> str:
        """The engine that is nearest to its bound, or farthest beyond it."""
        return max(self.errors, key=lambda engine: (self.missed(engine), self.errors[engine] / self.bound(engine)))

    @property
    def worst(self) -> float:
        """That engine's error in its bound: above 1 it is missed."""
        return self.errors[self.worst_engine] / self.bound(self.worst_engine)
