"""The plan as slots, one of them, and all of it as a table."""

from __future__ import annotations

from collections.abc import Sequence

from calibrate.measure.points import Point, all_points
from calibrate.measure.slots import Slot, cut, expected_s
from sim.errors import ScenarioError
from sim.hardware import load_hardware


def plan(profile: str, only: str = "") -> list[Slot]:
    """The points in slots; of one family when ``only`` names it."""
    points = all_points()
    families = list(dict.fromkeys(point.family for point in points))
    if only and only not in families:
        raise ScenarioError("no such family", path="--only", given=only, allowed=", ".join(families))
    return cut([point for point in points if only in ("", point.family)], load_hardware(profile))


# Of these families one slot measures every so-many-th size first; of the others all. The strides have no
# common divisor with the 13 and 5 token counts of the matrices: every count is among them.
FIRST_STRIDES = {"norm": 2, "gemm": 4, "attention": 3, "decode": 3, "step": 7}


def one_slot_plan(profile: str) -> tuple[Slot, Slot]:
    """(what every family has measured first, the rest), each with its families interleaved: a run may stop
    anywhere and has something of all of them."""
    points = all_points()
    by_family: dict[str, dict[object, list[Point]]] = {}
    for point in points:
        size = (point.kernel, point.dtype, point.size)
        by_family.setdefault(point.family, {}).setdefault(size, []).append(point)
    parts: tuple[list[tuple[float, Point]], list[tuple[float, Point]]] = ([], [])
    for family, sizes in by_family.items():
        stride = FIRST_STRIDES.get(family, 1)
        for index, same in enumerate(sizes.values()):
            is_first = index % stride == 0
            parts[not is_first].extend((index / len(sizes), point) for point in same)
    hardware = load_hardware(profile)
    slots = []
    for number, part in enumerate(parts, start=1):
        ordered = tuple(point for _, point in sorted(part, key=lambda one: one[0]))
        seconds = sum(expected_s(point, hardware) for point in ordered)
        slots.append(Slot(number=number, points=ordered, expected_s=seconds))
    return slots[0], slots[1]


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
