"""The forwards of a run: those of a guided step, by this process alone or shared out among a team."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial

import torch
from torch import Tensor

from mova.adapters.mixin import active_adapters
from mova.errors import UserError
from mova.layout import Layout
from mova.models.bridge import PictureMemory
from mova.offload import Offloader
from mova.parallel import Call, Step, Team, Velocities


class Run:
    """The forwards of one run, by this process alone or with its team.

    `condition` [B, 20, T, H, W] goes in with the video latents; `texts` are the embeddings of the prompts and
    of the negative prompts.
    """

    def __init__(
        self,
        residency: Offloader,
        team: Team | None,
        condition: Tensor,
        texts: tuple[Tensor, Tensor],
        frame_rate: float,
    ) -> None:
        self.residency, self.team, self.frame_rate = residency, team, frame_rate
        device = residency.device
        self.condition, self.texts = condition.to(device), tuple(text.to(device) for text in texts)
        self.memories: dict[bool, PictureMemory] = {}  # by `use_prompt`
        self.places: dict[bool, range] = {}  # of the memories

    @contextmanager
    def ready(self) -> Iterator[None]:
        """The towers are on their devices, in all processes, inside the context."""
        if self.team is not None:
            condition, *texts = (tensor.cpu() for tensor in (self.condition, *self.texts))
            adapters = active_adapters(self.residency.modules)
            self.team.tell(follow_run, condition, tuple(texts), self.frame_rate, adapters)
        try:
            with self.residency.use_towers():
                yield
        finally:
            if self.team is not None and not self.team.failure:
                self.team.send(None)

    def velocities(
        self,
        expert: str,
        calls: Sequence[Call],
        latents: Sequence[Tensor],
        timesteps: Tensor,
        check: Callable[[], None],
    ) -> Iterator[Velocities]:
        """Of each of `calls`, by the active `expert`.

        `latents` are those of video and audio, `timesteps` [2] theirs. `check` runs before the forwards and
        may raise to end the run.
        """
        forward = partial(self.forward, timesteps)
        if self.team is None:
            for call in calls:
                check()
                yield forward(call, *latents)
        else:
            check()
            tower, team = self.residency.dual_tower, self.team
            layout = Layout.choose(len(calls), team.count, tower.video_dit.config.num_heads, team.mode)
            places = [self._place(call, layout.place(index)) for index, call in enumerate(calls)]
            latents = [tensor.contiguous() for tensor in latents]
            step = Step(expert, tuple(calls), tuple(places), timesteps)
            team.send((step, [tensor.shape for tensor in latents]))
            yield from team.step(forward, tower, step, latents)

    def _place(self, call: Call, place: range) -> range:
        """The processes that run a call: `place`, or those that remember the picture for it."""
        if call.audio_only:
            return self.places[call.use_prompt] if call.remembers else place
        if call.remembers:
            self.places[call.use_prompt] = place
        return place

    def forward(self, timesteps: Tensor, call: Call, latents: Tensor, audio_latents: Tensor) -> Velocities:
        tower, text = self.residency.dual_tower, self.texts[0 if call.use_prompt else 1]
        video_timestep, audio_timestep = timesteps[:, None].expand(-1, len(latents))
        memory = None
        if call.remembers:
            if call.use_prompt not in self.memories:
                # A forward takes two thirds of it besides.
                size = 2 * tower.memory_bytes(len(latents), latents.shape[2:])
                self.memories[call.use_prompt] = PictureMemory(on_host=not self.residency.has_room(size))
            memory = self.memories[call.use_prompt]
        if call.audio_only:
            return None, tower.forward_audio(audio_latents, audio_timestep, text, memory)
        return tower(
            torch.cat((latents, self.condition), dim=1),
            audio_latents,
            video_timestep,
            audio_timestep,
            text,
            self.frame_rate,
            call.use_bridge,
            memory,
        )


def follow_run(
    team: Team, condition: Tensor, texts: tuple[Tensor, Tensor], frame_rate: float, adapters: dict[str, list]
) -> None:
    """A follower's part of a run; `adapters` are the leader's."""
    residency = team.pipeline.residency
    if (own := active_adapters(residency.modules)) != adapters:
        raise UserError(f"it has adapters {own}, the first {adapters}; attach the same in all processes")
    run = Run(residency, team, condition, texts, frame_rate)
    with torch.no_grad(), residency.use_towers():
        while (message := team.receive()) is not None:
            step, sizes = message
            residency.activate(step.expert)
            latents = [torch.empty(size, device=residency.device) for size in sizes]
            team.step(partial(run.forward, step.timesteps), residency.dual_tower, step, latents)
