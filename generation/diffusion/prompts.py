"""The expert's words for a diffusers pipeline: checked for length, encoded once, and never half read.

Shared by DIAG and In&Out. What a pipeline takes is read from its own signatures, so a new class
needs no entry here. Leaves out: which pipeline, and pictures.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from diagline.errors import GenerationError

Encoded = dict[str, Any]  # a pipeline's call arguments: (1, ...) tensors, or the words themselves
_NAMES = {
    2: ("prompt_embeds", "negative_prompt_embeds"),
    4: ("prompt_embeds", "negative_prompt_embeds", "pooled_prompt_embeds", "negative_pooled_prompt_embeds"),
}
_TOKENIZERS = ("tokenizer", "tokenizer_2", "tokenizer_3")


class Words:
    """The encoded prompts of one pipeline.

    Args:
        pipeline: a loaded diffusers pipeline.
        guidance: classifier-free guidance, above 1 in force.
        section: of the config, for errors.
        park: keep the text encoders off the GPU while they have nothing to encode.

    Attributes:
        settings: the call arguments that carry the guidance.

    Raises:
        GenerationError: a guidance that the pipeline does not read.
    """

    def __init__(self, pipeline: Any, guidance: float, section: str, park: bool = False) -> None:
        self._pipeline = pipeline
        self._takes = parameters(type(pipeline).__call__)
        self._encodes = parameters(type(pipeline).encode_prompt) if hasattr(pipeline, "encode_prompt") else {}
        self._section = section
        self._park = park
        self._known: dict[tuple[str, str], Encoded] = {}
        self.settings, self._guided = self._guidance(guidance)
        self._park_encoders()

    def encode(self, prompt: str, negative_prompt: str) -> Encoded:
        """The call arguments for one picture; a pair of texts is encoded the first time only.

        Raises:
            GenerationError: as `check`.
        """
        key = (prompt, negative_prompt)
        if key not in self._known:
            self.check(prompt, negative_prompt)
            self._known[key] = self._encode(prompt, negative_prompt)
        return self._known[key]

    def check(self, prompt: str, negative_prompt: str) -> None:
        """Refuse words that the pipeline would not read, or not to their end.

        Raises:
            GenerationError: says what would be cut and how much fits, or that negative prompts are not read.
        """
        self._check_length(prompt, "prompt")
        if not negative_prompt:
            return
        if not self._guided or not {"negative_prompt", "negative_prompt_embeds"} & self._takes.keys():
            raise GenerationError(
                f"negative prompt {negative_prompt!r}: {type(self._pipeline).__name__} does not read one with this "
                f"model and {self._section}.guidance; expected a model and a guidance above 1 that do; "
                f"leave generate.negative_prompt empty"
            )
        self._check_length(negative_prompt, "negative prompt")

    def _guidance(self, guidance: float) -> tuple[dict[str, Any], bool]:
        name = type(self._pipeline).__name__
        if getattr(self._pipeline.config, "is_distilled", False) and guidance > 1:
            raise GenerationError(
                f"{self._section}.guidance = {guidance}: this {name} is distilled and does not read it; "
                f"expected 1; set {self._section}.guidance = 1.0"
            )
        if "true_cfg_scale" in self._takes and not _embeds_guidance(self._pipeline):
            return {"true_cfg_scale": guidance}, guidance > 1
        if "guidance_scale" not in self._takes:
            raise GenerationError(f"{name} does not read {self._section}.guidance; expected a pipeline that does")
        return {"guidance_scale": guidance}, guidance > 1 and not _embeds_guidance(self._pipeline)

    def _check_length(self, text: str, what: str) -> None:
        for tokenizer, limit in self._readers():
            tokens = tokenizer(text, add_special_tokens=False, truncation=False, verbose=False)["input_ids"]
            room = limit - _frame_tokens(tokenizer)
            if len(tokens) > room:
                cut = tokenizer.decode(tokens[room:], skip_special_tokens=True).strip()
                raise GenerationError(
                    f"{what} {_short(text)!r}: {len(tokens)} tokens, the text encoder reads {room} "
                    f"({limit} with its own marks); it would cut {_short(cut)!r}; expected shorter words; shorten them"
                )

    def _readers(self) -> list[tuple[Any, int]]:
        """Tokenizers and their limits. Where a pipeline has a long reader (T5, Qwen), that one counts."""
        tokenizers = [made for name in _TOKENIZERS if (made := getattr(self._pipeline, name, None)) is not None]
        if "max_sequence_length" in self._takes:
            return [(made, int(self._takes["max_sequence_length"].default)) for made in tokenizers[-1:]]
        return [(made, int(made.model_max_length)) for made in tokenizers]

    def _encode(self, prompt: str, negative_prompt: str) -> Encoded:
        encoded: Encoded | None = None
        if "prompt_embeds" in self._takes and self._encodes:
            self._fetch_encoders()
            with torch.no_grad():
                encoded = self._encode_both(prompt, negative_prompt)
            self._park_encoders()
        if encoded is not None:
            return encoded
        words = {"prompt": prompt}
        if negative_prompt:
            words["negative_prompt"] = negative_prompt
        return words

    def _encode_both(self, prompt: str, negative_prompt: str) -> Encoded | None:
        if "negative_prompt" in self._encodes:
            more = (
                {"do_classifier_free_guidance": self._guided} if "do_classifier_free_guidance" in self._encodes else {}
            )
            made = self._run_encoder(prompt, negative_prompt=negative_prompt or None, **more)
            if len(made) not in _NAMES or not all(each is None or torch.is_tensor(each) for each in made):
                return None
            return {name: each for name, each in zip(_NAMES[len(made)], made, strict=True) if each is not None}
        encoded = self._named(self._run_encoder(prompt))
        if encoded is None or not self._guided or "negative_prompt_embeds" not in self._takes:
            return encoded
        # Without any negative words guidance is against empty ones; pipelines with true_cfg_scale would skip it.
        empty = " " if "true_cfg_scale" in self._takes else ""
        against = self._named(self._run_encoder(negative_prompt or empty)) or {}
        return encoded | {f"negative_{name}": each for name, each in against.items()}

    def _run_encoder(self, prompt: str, **more: Any) -> Sequence[Any]:
        others = {name: None for name in ("prompt_2", "prompt_3") if name in self._encodes}
        asked = others | {"device": self._pipeline._execution_device, "num_images_per_prompt": 1} | more
        made: Sequence[Any] = self._pipeline.encode_prompt(prompt=prompt, **asked)
        return made

    def _named(self, made: Sequence[Any]) -> Encoded | None:
        """What `encode_prompt` gave, by the call's names; text position ids are made anew in the call."""
        second = next((name for name in ("pooled_prompt_embeds", "prompt_embeds_mask") if name in self._takes), None)
        encoded = {"prompt_embeds": made[0]} | ({second: made[1]} if second else {})
        return {name: each for name, each in encoded.items() if each is not None} if torch.is_tensor(made[0]) else None

    def _encoders(self) -> list[Any]:
        names = ("text_encoder", "text_encoder_2", "text_encoder_3")
        return [made for name in names if (made := getattr(self._pipeline, name, None)) is not None]

    def _fetch_encoders(self) -> None:
        if self._park:
            for encoder in self._encoders():
                encoder.to(self._pipeline._execution_device)

    def _park_encoders(self) -> None:
        if self._park:
            for encoder in self._encoders():
                encoder.to("cpu")


def collate(words: Sequence[Encoded]) -> Encoded:
    """Call arguments of a batch from those of its pictures, in order."""
    return {
        name: torch.cat([each[name] for each in words]) if torch.is_tensor(first) else [each[name] for each in words]
        for name, first in words[0].items()
    }


def form(words: Encoded) -> tuple[Any, ...]:
    """What must be equal for two pictures to share a call: the arguments' names and shapes."""
    return tuple((name, tuple(each.shape) if torch.is_tensor(each) else None) for name, each in sorted(words.items()))


def parameters(function: Any) -> dict[str, inspect.Parameter]:
    """A method's parameters by name, without self."""
    return {name: each for name, each in inspect.signature(function).parameters.items() if name != "self"}


def _embeds_guidance(pipeline: Any) -> bool:
    """Whether the guidance is an input of the network (guidance-distilled transformers)."""
    config: Mapping[str, Any] = getattr(getattr(pipeline, "transformer", None), "config", {})
    return bool(config.get("guidance_embeds", False))


def _frame_tokens(tokenizer: Any) -> int:
    """Tokens that are put around the words: start and end, or a chat template."""
    if getattr(tokenizer, "chat_template", None):
        text = tokenizer.apply_chat_template(
            [{"role": "user", "content": ""}], tokenize=False, add_generation_prompt=True, enable_thinking=False
        )
        return len(tokenizer(text, verbose=False)["input_ids"])
    return len(tokenizer("", verbose=False)["input_ids"])


def _short(text: str, length: int = 80) -> str:
    return text if len(text) <= length else text[: length - 3] + "..."
