"""Say in sentences how the rows of the data were read, so that nothing is dropped or cut in silence."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from partune.errors import column_words
from partune.report import words

_LISTING = "`partune data DATA --validation-data FILE` lists them."


def loaded_notes(loaded: Mapping[str, Any]) -> list[str]:
    """Return what a user should know about how rows were read and items are scored, one sentence each.

    Args:
        loaded: The record's summary of what was loaded.
    """
    notes = row_notes(loaded.get("data", {}))
    if count := loaded.get("scoring", {}).get("truncated"):
        verb = "loses its" if count == 1 else "lose their"
        notes.append(
            f"{words.several(count, 'text')} of the scored items {verb} beginning, because the base model cannot read "
            "the whole text at once."
        )
    return notes


def row_notes(data: Mapping[str, Any]) -> list[str]:
    """Return what a user should know about how rows were read, one sentence each.

    Args:
        data: The record's summary of the loaded data.
    """
    notes = [*_reading_notes(data), *_use_notes(data, "trained on"), *loss_notes(data)]
    if count := data.get("endless_answers"):
        notes.append(
            f"In {words.several(count, 'chat')}, nothing after the last answer is trained on, so that the model does "
            "not learn where answers end."
        )
    if marks := data.get("split_marks"):
        verb = "is" if len(marks) == 1 else "are"
        notes.append(
            f"The chat template's {', '.join(marks)} {verb} not in the tokenizer's vocabulary, so the model reads "
            "several tokens of ordinary text there."
        )
    notes += _unknown_notes(data)
    if (file := data.get("validation_file")) is None:
        counts = {"truncated": "cut", "untrainable": "untrainable", "answerless": "answerless"}
        held = {name: data.get(f"validation_{entry}", 0) for name, entry in counts.items()}
        if "cut_at" in data:
            held |= {"cut_at": data.get("validation_cut_at", data["cut_at"]), "max_length": data["max_length"]}
        notes += cut_notes(held, "validation row", "score")
    else:
        notes += named_notes(file["name"], validation_notes(file, data["format"]))
    if count := data.get("validation_twins"):
        notes.append(
            f"{_are(count, 'validation row')} also among the training rows: "
            "scores on such rows show what the model remembers, not how it answers new rows. "
            f"{_LISTING}"
        )
    if count := data.get("validation_prompts"):
        notes.append(
            f"{words.several(count, 'validation row')} {'has' if count == 1 else 'have'} the prompt of a training row, "
            f"with another answer.{'' if data.get('validation_twins') else f' {_LISTING}'}"
        )
    return notes + [note for entry in data.get("seen", ()) for note in seen_notes(entry)]


def validation_notes(file: Mapping[str, Any], form: str) -> list[str]:
    """Return what a user should know about how the rows of a validation file were read, one sentence each.

    Args:
        file: The summary of the file's rows.
        form: The form of the training rows.
    """
    notes = [*_reading_notes(file, "scored"), *_use_notes(file, "scored"), *loss_notes(file, "validation row", "score")]
    notes += _unknown_notes(file)
    if file["format"] != form:
        notes.append(
            f"These rows are {FORMS[file['format']]}, but the training rows are {FORMS[form]}: the model is scored on "
            "another form of prompt than it is trained on."
        )
    if file.get("other_answers"):
        notes.append("Some answers are not among the training rows' labels, so these rows are not scored by labels.")
    return notes


def named_notes(name: str, notes: Iterable[str]) -> list[str]:
    """Return sentences about a file, each with the file's name in front.

    Args:
        name: The name of the file.
        notes: The sentences.
    """
    return [f"{name}: {note}" for note in notes]


def _use_notes(data: Mapping[str, Any], used: str) -> list[str]:
    """Return which fields and messages are not used, or are used in parts, one sentence each.

    Args:
        data: The summary of the rows.
        used: What is done with the answers, as a participle: trained on, or scored.
    """
    notes = []
    if count := data.get("rows_with_unused"):
        fields = ", ".join(map(column_words, data["unused"]))
        notes.append(
            f"{words.several(count, 'row')} {'has' if count == 1 else 'have'} fields that are not used: {fields}."
        )
    if count := data.get("empty_answers"):
        notes.append(f"{_are(count, 'answer')} empty.")
    if count := data.get("empty_prompts"):
        notes.append(f"{_are(count, 'prompt')} empty.")
    if count := data.get("same_as_rejected"):
        notes.append(f"In {words.several(count, 'row')}, the chosen and the rejected answer are the same.")
    if count := data.get("unanswered"):
        has = "has" if count == 1 else "have"
        notes.append(f"{words.several(count, 'chat')} {has} no answer: no message has the role assistant.")
    if count := data.get("answers_first"):
        begins = "begins" if count == 1 else "begin"
        notes.append(f"{words.several(count, 'chat')} {begins} with an answer, before any message of the user.")
    if count := data.get("cut_by_template"):
        notes.append(f"In {words.several(count, 'chat')}, the chat template leaves out or changes part of a message.")
    if count := data.get("untrained"):
        notes.append(f"{_are(count, 'answer')} read but not {used}: they are marked as such, or part of a prompt.")
    if count := data.get("answers_apart"):
        notes.append(
            f"The chat template writes {words.several(count, 'answer')} differently if more messages follow. Each such "
            f"answer is {used} in a separate example: the chat from its beginning to the end of this answer."
        )
    return notes


def _are(count: int, noun: str) -> str:
    """Return "1 row is" or "2 rows are"."""
    return f"{words.several(count, noun)} {'is' if count == 1 else 'are'}"


def _unknown_notes(data: Mapping[str, Any]) -> list[str]:
    count = data.get("unknown_tokens", 0)
    stand = "stands" if count == 1 else "stand"
    return [f"{words.several(count, 'token')} {stand} for text unknown to the tokenizer."] if count else []


def loss_notes(data: Mapping[str, Any], item: str = "training example", use: str = "train on") -> list[str]:
    """Return which rows are left out or cut, one sentence each.

    Args:
        data: The summary of the rows.
        item: What is cut, in the singular.
        use: What the tokens of an answer are for, as a verb.
    """
    notes = []
    if count := data.get("empty"):
        notes.append(f"{words.several(count, 'row')} without any text {'is' if count == 1 else 'are'} left out.")
    return notes + cut_notes(data, item, use)


def cut_notes(data: Mapping[str, Any], item: str = "training example", use: str = "train on") -> list[str]:
    """Return what is cut, and what is left out because its answers begin beyond the length, one sentence each.

    Args:
        data: The counts `truncated` and `untrainable`, and the length (see `length_words`).
        item: What is cut, in the singular.
        use: What the tokens of an answer are for, as a verb.
    """
    notes = []
    if by_length := {int(length): count for length, count in data.get("truncated_by_length", {}).items()}:
        counts = " and ".join(f"{count:,} at {length:,}" for length, count in by_length.items())
        notes.append(f"max_length is searched. The number of {item}s that are cut is {counts} tokens.")
    elif count := data.get("truncated"):
        notes.append(f"{_are(count, item)} cut at {length_words(data)}.")
    if count := data.get("answerless"):
        verb = "is" if count == 1 else "are"
        notes.append(f"{words.several(count, item)} without any token to {use} {verb} left out.")
    if count := data.get("untrainable", 0) - data.get("answerless", 0):
        verb = "is" if count == 1 else "are"
        within = f" within {data['cut_at']:,} tokens" if "cut_at" in data else ""
        notes.append(f"{words.several(count, item)} without a token to {use}{within} {verb} left out.")
    return notes


def length_words(data: Mapping[str, Any]) -> str:
    """Return the length at which examples are cut, and which limit it is: the setting, or the base model's context.

    Args:
        data: The entries `cut_at` and `max_length`, which records of older versions lack.
    """
    if "cut_at" not in data:
        return "max_length"
    if data["cut_at"] == data["max_length"]:
        return f"max_length ({data['cut_at']:,} tokens)"
    return f"{data['cut_at']:,} tokens, the most that the base model reads (max_length is {data['max_length']:,})"


# What the comparison of texts finds and does not find.
COMPARED = (
    "The comparison ignores case, spaces and punctuation. It looks for equal prompts, equal texts of at least 8 words "
    "within them, and equal runs of 13 words. It does not find rewordings or translations, and it leaves out phrases "
    "of a template, such as those that more than 10 items have."
)


def seen_notes(entry: Mapping[str, Any]) -> list[str]:
    """Return what a user should know about items that also occur in the training rows, one sentence each.

    Args:
        entry: The record's entry on a task or on the validation rows (`partune.finetune.contamination.Seen.recorded`).
    """
    what = entry["what"]
    of = f"the {entry['items']:,} {what}" if what == "validation rows" else f"the {entry['items']:,} items of {what}"
    if not entry["same"] and not entry["alike"]:
        return [f"None of {of} occurs in the training rows."]
    notes = []
    rows = ", ".join(map(str, entry["rows"]))
    such = "such as " if entry["same"] + entry["alike"] > len(entry["rows"]) else ""
    which = f"({such}row {rows})" if len(entry["rows"]) == 1 else f"({such}rows {rows})"
    if count := entry["same"]:
        verb = "asks" if count == 1 else "ask"
        notes.append(
            f"{count:,} of {of} {verb} what a training row asks {which}: scores on such items show what the model "
            "remembers, not how it answers new ones."
        )
    if count := entry["alike"]:
        verb = "shares" if count == 1 else "share"
        more = f"{count:,} more" if entry["same"] else f"{count:,} of {of}"
        where = "" if entry["same"] else f" {which}"
        notes.append(f"{more} {verb} 13 words in a row with a training row{where}: check whether they ask the same.")
    return notes


FORMS = {
    "alpaca": "instructions with answers",
    "chat": "chats",
    "completion": "prompts with completions",
    "text": "plain texts",
}
LAYOUTS = {
    "qa": "questions with answers",
    "label": "texts with labels",
    "sharegpt": "ShareGPT conversations",
    "completion": "prompts with completions",
    "preference": "preferences",
    "text": "plain texts, with all their tokens {used}",
}


def _reading_notes(data: Mapping[str, Any], used: str = "trained on") -> list[str]:
    """Return how the files and the format of the rows were interpreted, if that is not obvious.

    Args:
        data: The summary of the rows.
        used: What is done with the answers, as a participle: trained on, or scored.
    """
    notes = []
    if count := data.get("files"):
        notes.append(f"{words.several(count, 'file')} were read.")
    if unread := data.get("unread"):
        listed = ", ".join(unread[:8]) + (" and others" if len(unread) > 8 else "")
        verb = "is" if len(unread) == 1 else "are"
        notes.append(
            f"{words.several(len(unread), 'data file')} of the folder {verb} not read: {listed} (--data-split chooses "
            "the split)."
        )
    if separators := data.get("separators"):
        notes.append(f"The columns are separated by {' or '.join(separators)}.")
    renamed = ", ".join(f"{field} is {name}" for field, name in data.get("fields", {}).items() if field != name)
    if layout := LAYOUTS.get(data.get("layout", "")):
        layout = layout.format(used=used)
        notes.append(f"The rows are read as {layout}{f' ({renamed})' if renamed else ''}.")
    elif renamed:
        notes.append(f"Of the columns, {renamed}.")
    if labels := data.get("labels"):
        listed = ", ".join(labels[:8]) + (" and others" if len(labels) > 8 else "")
        notes.append(f"The answers are {words.several(len(labels), 'label')}: {listed}.")
    if count := data.get("rejected"):
        verb = "is" if count == 1 else "are"
        left = words.several(count, "rejected answer")
        notes.append(f"The chosen answers are {used}; the {left} {verb} not used.")
    return notes
