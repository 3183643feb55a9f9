"""vLLM's KV-cache groups: each rule on a small case, and every row that vLLM's own planner computed."""

from __future__ import annotations

import csv
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import pytest

from sim.model.kv_groups import KvKind, KvPool, LayerKv, groups_of, pool_of

PAGE = 1024


def layers_of(
    *kinds: tuple[int, KvKind], page_bytes: int = PAGE, block_size: int = 16, window: int = 64
) -> list[LayerKv]:
    """Consecutive layers: ``(number, kind)``."""
    found: list[LayerKv] = []
    for count, kind in kinds:
        for _ in range(count):
            found.append(
                LayerKv(
                    layer=len(found),
                    kind=kind,
                    row=kind,
                    page_bytes=page_bytes,
                    block_size=block_size,
                    window_tokens=window if kind in ("sliding", "chunked") else None,
                    pages_per_request=3 if kind == "state" else 0,
                )
            )
    return found


def sizes(layers: Sequence[LayerKv], *, packs_pages: bool = False) -> list[tuple[KvKind, int]]:
    return [(group.kind, group.num_layers) for group in groups_of(layers, packs_pages=packs_pages)]


def test_equal_layers_are_one_group() -> None:
    assert sizes(layers_of((32, "full"))) == [("full", 32)]
    assert sizes(layers_of((32, "sliding"))) == [("sliding", 32)]
    assert groups_of([]) == ()


def test_full_layers_of_different_width_are_one_group_whose_block_has_both_pages() -> None:
    wide, narrow = layers_of((2, "full"), page_bytes=4096), layers_of((2, "full"))
    (group,) = groups_of([*wide, *narrow])
    assert (group.num_layers, group.block_bytes) == (4, 2 * 4096 + 2 * PAGE)


def test_groups_have_as_many_layers_as_the_rarest_kind() -> None:
    """gemma-3-27b: 52 sliding and 10 full layers are six groups of 9 or 8, and one of 10."""
    found = sizes(layers_of((52, "sliding"), (10, "full")))
    assert found == [("sliding", 9)] * 4 + [("sliding", 8)] * 2 + [("full", 10)]


@pytest.mark.parametrize(("windows", "expected"), [(14, [14, 10]), (15, [8, 7, 10]), (20, [10, 10, 10])])
def test_a_kind_less_than_half_as_many_again_is_not_split(windows: int, expected: list[int]) -> None:
    found = sizes(layers_of((windows, "sliding"), (10, "full")))
    assert [count for _, count in found] == expected


def test_neighbouring_layers_go_to_different_groups_so_that_stages_share_them() -> None:
    """Each of two stages then holds a part of every group."""
    pattern = layers_of((1, "full"), (2, "sliding"), (1, "full"), (2, "sliding"))
    found = [[layer.layer for layer in group.layers] for group in groups_of(pattern)]
    assert found == [[0, 3], [1, 4], [2, 5]]
    assert [group.of_layers(3, 3).num_layers for group in groups_of(pattern)] == [1, 1, 1]


def test_a_smaller_page_holds_more_tokens_where_that_comes_out_even() -> None:
    full, sliding = groups_of([*layers_of((4, "full"), page_bytes=2048), *layers_of((4, "sliding"))])
    assert (full.block_size, sliding.block_size) == (16, 32)
    assert full.block_bytes == sliding.block_bytes


def test_a_page_that_does_not_divide_is_padded_and_so_is_a_state() -> None:
    for kind in ("sliding", "state"):
        full, other = groups_of([*layers_of((4, "full"), page_bytes=3000), *layers_of((4, kind))])
        assert other.block_size == 16
        assert full.block_bytes == other.block_bytes == 4 * 3000


def test_windows_beside_latent_rows_that_cannot_be_padded_are_kept_whole() -> None:
    latent = [
        LayerKv(layer=i, kind="full", row="mla", page_bytes=1000, block_size=16, is_latent=True)
        for i in range(4)
    ]
    (group,) = groups_of([*latent, *layers_of((4, "sliding"), page_bytes=1536)])
    assert (group.kind, group.num_layers, group.block_bytes) == ("full", 8, 4 * 1000 + 4 * 1536)


def test_packed_pages_lie_side_by_side() -> None:
    """An indexer's small pages beside latent ones; windows of another page size in a group of their own."""
    mixed = [*layers_of((10, "full"), page_bytes=4096), *layers_of((10, "full"), page_bytes=512)]
    windows = layers_of((40, "sliding"), page_bytes=2048)
    found = groups_of([*mixed, *windows], packs_pages=True)
    assert [(group.kind, group.num_layers) for group in found] == [("full", 20)] + [("sliding", 10)] * 4
    assert pool_of(found, 10**9, in_flight_tokens=1).block_bytes == 10 * (4096 + 512)
    alone = groups_of([*layers_of((10, "full"), page_bytes=4096), *windows], packs_pages=True)
    assert [group.num_layers for group in alone] == [10, 40]


@pytest.mark.parametrize(
    ("kind", "tokens", "blocks"),
    [
        ("full", 1, 1),
        ("full", 160, 10),
        ("full", 161, 11),
        ("sliding", 1, 2),
        ("sliding", 1000, 7 + 1),  # 64 - 1 + 48 tokens are 7 blocks
        ("chunked", 1000, 7),  # 64 + 48
        ("chunked", 17, 2),
        ("state", 1, 3),
        ("state", 10**6, 3),
    ],
)
def test_blocks_of_a_request(kind: KvKind, tokens: int, blocks: int) -> None:
    (group,) = groups_of(layers_of((4, kind)))
    assert group.blocks(tokens, 48) == blocks


def full_pool(num_blocks: int, *, reserves_null_block: bool = True) -> KvPool:
    groups = groups_of(layers_of((4, "full")))
    num_bytes = num_blocks * groups[0].block_bytes
    return pool_of(groups, num_bytes, in_flight_tokens=16, reserves_null_block=reserves_null_block)


def test_the_longest_request_leaves_the_null_block() -> None:
    assert full_pool(11).longest(10**6) == 160
    assert full_pool(11, reserves_null_block=False).longest(10**6) == 176
    assert full_pool(11).longest(50) == 50
    assert full_pool(1).longest(10**6) == 0
    assert full_pool(11).fits(160)
    assert not full_pool(11).fits(161)


def test_concurrency_counts_whole_blocks_of_every_group() -> None:
    groups = groups_of(layers_of((8, "sliding"), (8, "full")))
    pool = pool_of(groups, 100 * groups[0].block_bytes, in_flight_tokens=48)
    assert pool.concurrency(1600) == 100 / (100 + 7 + 1)


KINDS: dict[str, KvKind] = {
    "FullAttentionSpec": "full",
    "MLAAttentionSpec": "full",
    "SlidingWindowSpec": "sliding",
    "ChunkedLocalAttentionSpec": "chunked",
    "MambaSpec": "state",
}
Key = tuple[str, str, str, str]


def key_of(row: dict[str, str]) -> Key:
    return row["name"], row["gpu"], row["tp"], row["kv_cache_dtype"]


def specs(folder: Path) -> dict[Key, list[LayerKv]]:
    """The layers as vLLM specified them. Delta nets without checkpoints at prefill (KDA) are float32."""
    found: dict[Key, list[LayerKv]] = defaultdict(list)
    for row in csv.DictReader((folder / "layers.csv").open()):
        layers = found[key_of(row)]
        is_kda = row["mamba_type"].endswith("GDN_ATTN") and "float32" in row["dtype"]
        one = LayerKv(
            layer=0,
            kind=KINDS[row["kind"]],
            row=(row["num_kv_heads"], row["head_size"], row["head_size_v"], row["dtype"]),
            page_bytes=int(row["page_size_padded"] or row["page_size_bytes"]),
            block_size=int(row["block_size"]),
            window_tokens=int(row["window"] or row["chunk"] or 0) or None,
            pages_per_request=2 if is_kda else 3,
            is_latent=row["kind"] == "MLAAttentionSpec",
        )
        layers += [one] * int(row["count"])
    return found


def test_every_row_of_vllm_s_planner(shared: Path) -> None:
    """Given the layers: groups, blocks, tokens and maximum concurrency, and what is refused."""
    layers_by_key = specs(shared / "models")
    wrong, count = [], 0
    for row in csv.DictReader((shared / "models" / "kv.csv").open()):
        groups = groups_of(layers_by_key[key_of(row)])
        pool = pool_of(
            groups,
            int(row["available_gib"]) * 2**30,
            in_flight_tokens=2 * int(row["max_num_batched_tokens"]),
        )
        length, count = int(row["max_model_len"]), count + 1
        own = sorted((group.kind, group.num_layers, group.block_size) for group in groups)
        theirs = sorted(
            (KINDS[kind], int(layers), int(block))
            for layers, kind, block in (
                (part.split("x")[0], part.split("x")[1].split("@")[0], part.split("@")[1].split(":")[0])
                for part in row["groups"].split(";")
            )
        )
        is_equal = own == theirs and pool.fits(length) == (row["started"] == "1")
        if row["started"] == "1":
            concurrency = pool.concurrency(length)
            is_equal &= pool.num_blocks == int(row["num_gpu_blocks"])
            is_equal &= round(concurrency, 4) == float(row["concurrency"])
            is_equal &= int(concurrency * length) == int(row["kv_tokens"])
        if not is_equal:
            wrong.append((*key_of(row), length))
    assert not wrong
    assert count > 2000
