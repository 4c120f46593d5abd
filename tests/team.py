"""Followers for tests: processes that talk over gloo on the CPU, forked from one that has the libraries."""

import multiprocessing
from datetime import timedelta

import torch.distributed as dist

from mova import parallel
from mova.backends.local import load_follower
from mova.parallel import Team
from mova.pipeline import MOVAPipeline
from mova.placement import Placement, place

FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(["mova.backends.local", __name__])


def team_of(count: int) -> Team:
    """The team of this process, with `count` - 1 followers that stand ready."""
    team = parallel._team
    if team is not None and (team.count != count or team.failure):
        team.close()
        team = None
    if team is None:
        store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False, use_libuv=False)
        for rank in range(1, count):
            FORKS.Process(target=_follow, args=(rank, count, store.port), daemon=True).start()
        team = parallel._team = Team(0, count, 0, store)
    return team


def _follow(rank: int, count: int, port: int) -> None:
    store = dist.TCPStore("127.0.0.1", port, is_master=False, timeout=timedelta(minutes=1), use_libuv=False)
    parallel._team = Team(rank, count, rank, store)
    parallel._team.follow()


def shared(folder: str, count: int, mode: str = "auto", **changes: object) -> MOVAPipeline:
    """The checkpoint in `folder`, float32 on the CPU, in this process and `count` - 1 others."""
    placement = Placement("cpu", "float32", gpus=count, parallel=mode, **changes)
    team_of(count).tell(load_follower, folder, placement)
    pipeline = MOVAPipeline.from_pretrained(folder, torch_dtype=placement.torch_dtype)
    pipeline.set_progress_bar_config(disable=True)
    place(pipeline, placement)
    return pipeline
