"""Texts that people write by hand, and programs export: YAML, tables, words of a command line."""

from __future__ import annotations

import random
import re

from fuzz_fork import CANARY

BOMB = "a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(f"{chr(98 + k)}: &{chr(98 + k)} [{','.join([f'*{chr(97 + k)}'] * 9)}]\n" for k in range(8))
LINES = (
    BOMB,
    f"run: {BOMB.splitlines()[0][3:]}\n",
    "task: &t {inputs: *t}\n",
    "run: &r [*r]\n",
    "evaluate: {mass_bins: &m {low: *m}}\n",
    "<<: {run: {seed: 1}}\n",
    "<<: 3\n",
    f"run: !!python/object/apply:os.system ['{CANARY}']\n",
    f"run: !!python/name:os.system {CANARY}\n",
    "train: !!binary aGVsbG8=\n",
    "train: !!set {a, b}\n",
    "train: {lr: !!timestamp 2020-13-45}\n",
    "train: {lr: 2020-13-45}\n",
    "run: {seed: 0o9}\n",
    "run: {seed: 190:20:30}\n",
    "? [a, b]\n: 1\n",
    "? {a: 1}\n: 1\n",
    "1: 2\n",
    "null: 2\n",
    "run: {1: 2}\n",
    "train: {~: 2}\n",
    "project: {width: {a: 1}}\n",
    "--- 1\n--- 2\n",
    "%YAML 9.9\n---\n",
    "run: {dir: a, dir: b}\nrun: {dir: c}\n",
    "[" * 5000 + "\n",
    "{a: " * 3000 + "\n",
    "- " * 5000 + "\n",
    "run: {seed: " + "9" * 5000 + "}\n",
    "run: {dir: " + "x" * 200_000 + "}\n",
    "run: {dir: ${HOME}${NO_SUCH_VARIABLE}}\n",
    "run: {dir: '${" + "A" * 50_000 + "}'}\n",
    "\t: x\n",
    "x" * 5000 + ": 1\n",
    "run:\n",
    "'\\ud800': 1\n",
    'run: {dir: "\\uD800"}\n',
    'run: {dir: "a\\0b"}\n',
    'run: {maps: "a\\0b", model: "c\\0d"}\n',
    'project: {snapshot: "a\\0b", halos: "\\0"}\n',
    "project: {snapshot: '[', halos: '**/**/**'}\n",
    "run: {dir: ~user}\n",
)
"""Lines put into a config."""
VALUES = (
    "null", "~", "''", "0", "-1", "1", "3", "7", "1e308", "1e400", "-1e308", ".nan", ".inf", "-.inf", "nan", "1e-320", "99999999999999999999", "9" * 5000, "0x10", "1_000", "true",
    "[]", "{}", "[[]]", "[1]", "[a, a]", "[-1, 1]", "[2, 1]", "{a: b}", "{gas: 1}", "{gas: {a: 1}}", "text", "1.5", "2 R200m", "-2 R200m", "1e400 R200m", "nan R200m", "R200m", "2 Zorkmid",
    "[sz]", "[sz, sz]", "[gas, dm, sz, xray]", "'${HOME}'", "'${'", '"\\0"', '"\\ud800"', "2020-01-01", "12:30:45", "!!int x", "!!float ''", "!!null x", "&a [*a]", "*nope", "|", "é", "'a\n\n b'",
    f"!!python/object/new:os.system [{CANARY}]", "[" * 2000, "x" * 100_000, "{? [a]: 1}", "[0x7fffffffffffffff]", "18446744073709551616",
)  # fmt: skip
"""Values put into a config or behind an override's `=`."""
WORDS = (
    "", "nan", "inf", "-inf", "-1", "0", "1e400", "1e-400", "99999999999999999999999", "9" * 5000, "-9223372036854775809", "1.5", "0x10", "1_000", "\u0661\u0662", "١e٣", "True", '"', "'", "a b", ",", "#", "\x00", "é",
    f"__import__('os').system('{CANARY}')", "x" * 50_000, "=1+1", "1;2", "+", "-", "1e", ".", "1j", "5d14",
)  # fmt: skip
"""Words put into a table."""


def mutate_yaml(rng: random.Random, text: str) -> bytes:
    """Values, keys and lines of a config replaced, removed, doubled; or another encoding."""
    for _ in range(rng.choice([1, 1, 2, 3])):
        what = rng.random()
        lines = text.splitlines(keepends=True)
        k = rng.randrange(len(lines)) if lines else 0
        if what < 0.45:
            found = list(re.finditer(r"(?<=: )[^,{}\[\]\n]+|\[[^\[\]]*\]", text))
            if found:
                m = rng.choice(found)
                text = text[: m.start()] + rng.choice(VALUES) + text[m.end() :]
        elif what < 0.65:
            text = "".join([*lines[:k], rng.choice(LINES), *lines[k:]])
        elif what < 0.72:
            text = rng.choice(LINES)
        elif what < 0.8:
            found = list(re.finditer(r"\b\w+(?=:)", text))
            if found:
                m = rng.choice(found)
                text = (
                    text[: m.start()]
                    + rng.choice(["", "lr", "Seed", "npx", "é", "a.b", "run", "0", "null", "x" * 3000, "'\\0'"])
                    + text[m.end() :]
                )
        elif what < 0.85:
            text = "".join([*lines[:k], *lines[k + 1 :]])
        elif what < 0.9:
            text = "".join([*lines, *lines[k : k + 1]])
        else:
            k = rng.randrange(len(text) + 1)
            text = (
                text[:k]
                + rng.choice(["\x00", "\t", "}", "]", "{", '"', "'", ":", "\x85", "\u2028", "\ufeff", "\x1b", "&", "*", "%", "@"])
                + text[k:]
            )
    how = rng.random()
    if how < 0.05:
        return text.encode(rng.choice(["utf-16", "utf-32", "utf-16-le", "utf-8-sig"]), "surrogatepass")
    data = text.encode("utf-8", "surrogatepass")
    return data.replace(b"e", b"\xe9", 2) if how < 0.08 else data


def mutate_override(rng: random.Random, keys: list[str]) -> str:
    """A dotted override that may be nonsense."""
    key = rng.choice(
        [
            *keys,
            *keys,
            "",
            ".",
            "run",
            "run.",
            ".run",
            "project.split",
            "project.split.x",
            "a.b.c.d",
            "run.dir.x",
            "x" * 5000,
            "train..lr",
            "évaluate.k",
        ]
    )
    value = rng.choice([*VALUES, *(line.strip() for line in LINES)])
    return rng.choice([f"{key}={value}", f"{key}={value}", f"{key}={value}", key, f"={value}", f"{key}=="]).replace("\x00", " ").lstrip("-")


def mutate_table(rng: random.Random, text: str, mark: str | None) -> bytes:
    """Lines and words of a table replaced, removed, doubled, in another encoding; `mark` stands between words (None: blanks)."""
    for _ in range(rng.choice([1, 1, 2, 3])):
        lines = text.split("\n")
        k = rng.randrange(len(lines))
        what = rng.random()
        words = lines[k].split(mark)
        w = rng.randrange(max(len(words), 1)) if words else 0
        if what < 0.5 and words:
            words[w] = rng.choice(WORDS)
        elif what < 0.6 and words:
            del words[w]
        elif what < 0.65:
            words.append(rng.choice(WORDS))
        elif what < 0.72 and len(words) > 1:
            v = rng.randrange(len(words))
            words[w], words[v] = words[v], words[w]
        lines[k] = (mark or " ").join(words)
        if what >= 0.95:
            lines = lines[: rng.randrange(len(lines))]
        elif what >= 0.9:
            lines[0] = rng.choice(["", "#", "#ID", lines[0].lower(), lines[0] * 50, lines[0].replace("#", ""), "\ufeff" + lines[0]])
        elif what >= 0.86:
            lines.insert(
                k,
                rng.choice(
                    [
                        "",
                        "#",
                        "#Units: Masses in kg",
                        "#a = 0.1.2.3",
                        "#Box size: x Mpc/h",
                        "#Om = 1e400; Ol = -; h = +",
                        "#Box size: ++ Mpc/h",
                        "\x00",
                        '"',
                        "x" * 300_000,
                    ]
                ),
            )
        elif what >= 0.79:
            lines.insert(k, lines[rng.randrange(len(lines))])
        elif what >= 0.72:
            del lines[k]
        text = "\n".join(lines)
    how = rng.random()
    if how < 0.06:
        return text.encode(rng.choice(["utf-16", "utf-32", "utf-8-sig"]), "surrogatepass")
    if how < 0.1:
        return text.replace("\n", rng.choice(["\r\n", "\r", "\x85", "\u2028"])).encode()
    data = text.encode("utf-8", "surrogatepass")
    return data.replace(b"0", b"\xff", 2) if how < 0.13 else data
