"""The comparison of samplers as text: a table for each field, and one in Markdown for docs/samplers.md."""

from __future__ import annotations

from report import table

from samplers import contest

SHOWN = 0.25
"""Settings drawn for less than this part of the reference's halos tell little, and are in the JSON alone."""
VALUES = (*contest.COVERAGE, *contest.SKILL, "b_small", "b_large", "r_small", "r_large", "sample_b_small", "sample_r_small")


def told(content: dict) -> dict:
    """The same without settings of few halos, for the documentation and the figures."""
    return content | {"rows": [row for row in content["rows"] if row["halos"] >= SHOWN * content["halos"]]}


def show(content: dict) -> None:
    """Print a table for each field, what `auto` shall be, and what each sampler needs."""
    header = [
        "sampler",
        "init",
        "steps",
        "NFE",
        "halos",
        "CRPS pixel, worse by",
        "total",
        "cover pixel",
        "total",
        "spread/skill pixel",
        "total",
    ]
    header += ["b small", "large", "r small", "large", "a sample's b small", "r small", "profile error", "worse in"]
    for field, name in enumerate(content["fields"]):
        lines = []
        for row in content["rows"]:
            found = row["against"]
            line = [row["curve"], row["init"], str(row["steps"]), str(row["nfe"]), str(row["halos"])]
            for q in contest.CRPS:
                line.append(f"{100 * found[q]['loss'][field]:+.1f} +- {100 * found[q]['loss_error'][field]:.1f} %")
            line += [f"{found[q]['value'][field]:.3f}" for q in VALUES]
            line.append(f"{100 * found['profile_error']['value'][field]:.1f} %")
            bad = [q.rsplit(" ", 1) for q in contest.worse(found)]
            lines.append([*line, ", ".join(q for q, f in bad if int(f) == field) or "-"])
        print(f"{name}: {content['halos']} halos, {content['samples']} samples each, nominal coverage {content['nominal']:.3f}")
        print(table(header, lines) + "\n")
    for key in ("auto", "cheapest_by_scores_alone"):
        one = content[key]
        print(f"{key}: " + (f"{one['sampler']}, {one['steps']} steps, {one['init']}" if one else "none is as good as the reference"))
    needs = ", ".join(f"{s} {n or 'more than tried'}" for s, n in content["nfe_at_equal_crps"].items())
    print(f"network evaluations from which the CRPS is not worse, matched start: {needs}\n")


def markdown(content: dict) -> str:
    """One table of all fields; a cell has a number for each, in the order of the fields. Without settings of few halos (`SHOWN`)."""
    header = [
        "sampler",
        "start",
        "steps",
        "NFE",
        "halos",
        "CRPS of pixels, worse by (%)",
        "CRPS of total mass, worse by (%)",
        "coverage of pixels",
    ]
    header += ["coverage of total mass", "spread over skill, total mass", "b of a sample, small scales", "profile error (%)"]
    header += ["spread on Gaussians, off by (%)", "worse"]
    lines = [f"| {' | '.join(header)} |", "|---" * len(header) + "|"]
    for row in sorted(told(content)["rows"], key=lambda row: (row["init"], row["curve"], row["nfe"])):
        found = row["against"]

        def losses(q: str, found: dict = found) -> str:
            pairs = zip(found[q]["loss"], found[q]["loss_error"], strict=True)
            return ", ".join(f"{100 * lost:+.1f} ± {100 * error:.1f}" for lost, error in pairs)

        def values(q: str, found: dict = found) -> str:
            return ", ".join(f"{x:.2f}" for x in found[q]["value"])

        cells = [
            f"`{row['sampler']}`" + (f", churn {row['churn']:g}" if row["churn"] else ""),
            row["init"],
            str(row["steps"]),
            str(row["nfe"]),
            str(row["halos"]),
            *(losses(q) for q in contest.CRPS),
        ]
        cells += [values(q) for q in (*contest.COVERAGE, "total_spread_skill", "sample_b_small")]
        cells.append(", ".join(f"{100 * x:.1f}" for x in found["profile_error"]["value"]))
        cells.append(f"{100 * row['gaussian']:+.1f}")
        cells.append("yes" if contest.worse(found) else "no")
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)
