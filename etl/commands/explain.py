"""``ct-etl explain``: what a code of ledger, report or store means."""

from __future__ import annotations

import textwrap

import click

LINE_CHARACTERS = 78


@click.command()
@click.argument("codes", nargs=-1, metavar="[CODE...]")
def command(codes: tuple[str, ...]) -> None:
    """Say what CODE means, why it usually appears and what to do; without one, list all."""
    from etl.report.explain import explain, explanations

    if not codes:
        widest = max(map(len, explanations()))
        for one in explanations().values():
            click.echo(f"{one.code:<{widest}}  {one.kind.partition(':')[0]}")
        return
    for n, one in enumerate([explain(code) for code in codes]):
        paragraphs = [one.code, f"  {one.kind}"]
        for title, text in (("meaning", one.meaning), ("usual cause", one.cause), ("what to do", one.remedy)):
            paragraphs.append(
                textwrap.fill(text, LINE_CHARACTERS, initial_indent=f"  {title}: ", subsequent_indent="    ")
            )
        click.echo(("\n" if n else "") + "\n".join(paragraphs))
