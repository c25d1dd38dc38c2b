"""`spikeconv models`."""

from spikeconv.cli.console import out, print_json, table
from spikeconv.cli.options import AsJson, Quiet
from spikeconv.families import FAMILIES
from spikeconv.sources.presets import model_presets, scheme_names
from spikeconv.systems import SYSTEMS

__all__ = ["models"]


def models(as_json: AsJson = False, quiet: Quiet = False) -> None:  # noqa: ARG001 (it says nothing beside its answer)
    """List model presets, published systems, supported architectures and schemes.

    Example: [cyan]spikeconv models[/]
    """
    presets = model_presets()
    if as_json:
        print_json(
            {
                "presets": {name: preset.model_dump(exclude={"config"}) for name, preset in presets.items()},
                "families": {family.model_type: family.architecture for family in FAMILIES.values()},
                "schemes": scheme_names(),
                "systems": [system._asdict() for system in SYSTEMS],
            }
        )
        return
    rows = table("Presets", "name", "model", "hub id", text=["model", "hub id"])
    for name, preset in presets.items():
        rows.add_row(name, preset.description, preset.hub + (" (gated)" if preset.gated else ""))
    out.show(rows)
    columns = ("how an input becomes spikes", "spikeconv …", "status")
    systems = table("Systems", "name", *columns, text=columns)
    for system in SYSTEMS:
        systems.add_row(*system)
    out.show(systems)
    families = ", ".join(family.architecture for family in FAMILIES.values())
    out.print("\n[title]Architectures[/] {families}", families=families)
    out.print("[title]Schemes[/] {schemes}", schemes=", ".join(scheme_names()))
