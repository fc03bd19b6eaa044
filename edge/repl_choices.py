"""Commands of the terminal chat about how answers come to be: /set, /schema, /lora, /model, /stats."""

from __future__ import annotations

from pathlib import Path

from edge.chat_settings import change_setting, changed_settings, setting_names, shown_setting
from edge.errors import EdgeError
from edge.quantities import counted
from edge.repl_input import read_text
from edge.repl_output import passing_note, say, silent_keyboard
from edge.repl_talk import Outcome, Talk
from edge.request import AdapterChoice


def set_setting(talk: Talk, argument: str) -> Outcome:
    name, _, value = argument.partition(" ")
    defaults = talk.models.engine.default_sampling
    if not name:
        lines = changed_settings(talk.chat, defaults) or ["Every setting has its default."]
        say("\n".join([*lines, f"Settings: {', '.join(setting_names())}."]))
    elif not value.strip():
        say(shown_setting(talk.chat, defaults, name))
    else:
        say(change_setting(talk.chat, name, value.strip()))
    return None


def schema(talk: Talk, argument: str) -> Outcome:
    from edge.constraint import Constraint, relax

    if not argument:
        is_set = talk.chat.constraint is not None
        say("Answers conform to a JSON Schema." if is_set else "There is no JSON Schema. /schema FILE sets one.")
    elif argument == "off":
        talk.chat.constraint = None
        say("Answers are free again.")
    else:
        path = Path(argument).expanduser()
        constraint = Constraint.json_schema(read_text(path))
        relax(constraint)  # refuses here what no answer could be held to
        talk.chat.constraint = constraint
        say(f"Answers conform to {path.name} from now on; /schema off ends it.")
    return None


def lora(talk: Talk, argument: str) -> Outcome:
    loaded = loaded_adapters(talk)
    if argument == "off":
        talk.chat.adapters = ()
        say("Answers come without adapters.")
        return None
    if argument:
        chosen = [_adapter_choice(each) for each in argument.split()]
        unknown = next((each.name for each in chosen if each.name not in loaded), None)
        if unknown is not None:
            known = f"Loaded: {', '.join(loaded)}." if loaded else "Load one with: edge chat --lora FILE"
            raise EdgeError(f"No adapter {unknown!r} is loaded.", hint=known)
        talk.chat.adapters = tuple(chosen)
    if not loaded:
        say("No adapter is loaded. Load one with: edge chat --lora FILE")
        return None
    chosen_scales = {each.name: each.scale for each in talk.chat.adapters or ()}
    scales = loaded if talk.chat.adapters is None else chosen_scales
    say("\n".join(f"{name}: {f'scale {scales[name]:g}' if name in scales else 'off'}" for name in loaded))
    return None


def loaded_adapters(talk: Talk) -> dict[str, float]:
    """The names by which adapters are chosen, with the scales they were loaded with."""
    scales: dict[str, float] = {}
    for adapter in talk.models.choice.adapters:
        scales[adapter.path.stem] = scales.get(adapter.path.stem, 0.0) + adapter.scale
    return scales


def _adapter_choice(text: str) -> AdapterChoice:
    """NAME[:SCALE]."""
    name, colon, scale = text.rpartition(":")
    if not colon:
        return AdapterChoice(text)
    try:
        return AdapterChoice(name, float(scale))
    except ValueError:
        raise EdgeError(f"The scale {scale!r} is not a number.", hint="Write it as in: /lora pirate:0.5") from None


def model(talk: Talk, argument: str) -> Outcome:
    if argument:
        with silent_keyboard(), passing_note(f"Opening {argument} …"):
            talk.models.switch(argument)
        for line in talk.models.take_remarks():
            say(line)
        talk.chat.use(talk.models.engine)
        talk.shelf.use_model()
        turns = len(talk.chat.questions)
        kept = f" The conversation goes on, {counted(turns, 'turn')} to be read by it." if turns else ""
        say(f"{_model_line(talk)}{kept}")
    else:
        say(_model_line(talk))
    return None


def _model_line(talk: Talk) -> str:
    return f"{talk.models.choice.path.name}, {talk.chat.context_tokens:,} tokens of context."


def stats(talk: Talk, argument: str) -> Outcome:
    from statistics import median

    from rich.console import Console

    from edge.tables import section

    chat, done = talk.chat, talk.completions
    usages = [each.usage for each in done]
    used = usages[-1].prompt_tokens + usages[-1].completion_tokens if usages else 0
    read = sum(each.prompt_tokens for each in usages)
    cached = sum(each.cached_tokens for each in usages)
    written = sum(each.completion_tokens for each in usages)
    forced = sum(each.forced_tokens for each in usages)
    drafted, accepted = sum(each.drafted_tokens for each in usages), sum(each.accepted_tokens for each in usages)
    rates = [rate for each in done if (rate := each.timing.tokens_per_second(each.usage))]
    firsts = [each.timing.first_token_seconds for each in done if each.usage.completion_tokens]
    rows = [
        ("Model", talk.models.choice.path.name),
        ("Session", talk.shelf.name or "none"),
        ("Context", f"{used:,} of {chat.context_tokens:,} tokens"),
        ("Turns", f"{len(chat.questions)}"),
        ("Left out", counted(chat.left_out, "message") if chat.left_out else ""),
        ("Branches", f"{len(chat.branches.others) + 1}" if chat.branches.others else ""),
        ("Answers", f"{len(done)}"),
        ("Prompts", f"{counted(read, 'token')}, {cached:,} of them from the cache" if read else ""),
        ("Written", counted(written, "token") if written else ""),
        ("Forced", f"{counted(forced, 'token')} by the schema" if forced else ""),
        ("Guessed", f"{counted(drafted, 'token')}, {accepted:,} of them right" if drafted else ""),
        ("Speed", f"{median(rates):.1f} tokens/s (median)" if rates else ""),
        ("First token", f"{median(firsts):.2f} s (median)" if firsts else ""),
    ]
    Console(stderr=True).print(section("This chat", [row for row in rows if row[1]]))
    return None
