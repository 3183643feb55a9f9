"""The plan as slots, one of them, and all of it as a table."""

from __future__ import annotations

from collections.abc import Sequence

from calibrate.measure.points import Point, all_points
from calibrate.measure.slots import Slot, cut
from sim.errors import ScenarioError
from sim.hardware import load_hardware


def plan(profile: str, only: str = "") -> list[Slot]:
    """The points in slots; of one family when ``only`` names it."""
    points = all_points()
    families = list(dict.fromkeys(point.family for point in points))
    if only and only not in families:
        raise ScenarioError("no such family", path="--only", given=only, allowed=", ".join(families))
    return cut([point for point in points if only in ("", point.family)], load_hardware(profile))


def chosen(slots: list[Slot], number: int | None) -> list[Slot]:
    """The slot of that number, or all."""
    if number is None:
        return slots
    if not 1 <= number <= len(slots):
        raise ScenarioError("no such slot", path="--slot", given=number, allowed=f"1 to {len(slots)}")
    return [slots[number - 1]]


def plan_table(slots: Sequence[Slot]) -> str:
    """Slots by family: points and expected seconds."""
    lines = ["slot  family      points  expected"]
    for slot in slots:
        for family in dict.fromkeys(point.family for point in slot.points):
            few = [point for point in slot.points if point.family == family]
            lines.append(f"{slot.number:4}  {family:10}  {len(few):6}")
        lines.append(f"{slot.number:4}  {'all':10}  {len(slot.points):6}  {slot.expected_s:6.0f} s")
    points = sum(len(slot.points) for slot in slots)
    seconds = sum(slot.expected_s for slot in slots)
    gemms = {point.size for slot in slots for point in slot.points if is_bf16_gemm(point)}
    lines.append(
        f"{points} points in {len(slots)} slots, some {seconds:.0f} s; {len(gemms)} GEMM shapes in bfloat16"
    )
    return "\n".join(lines)


def is_bf16_gemm(point: Point) -> bool:
    """A shape of the GEMM grid."""
    return point.kernel == "matmul" and point.dtype == "bfloat16"
