"""What a backdoor is called in the catalogues that security teams sort by. Their names change: versions are pinned."""

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Taxon:
    """One entry of a catalogue."""

    id: str
    name: str
    text: str


@dataclass(frozen=True)
class Taxonomy:
    """One catalogue, of one version, with the entries that fit."""

    name: str
    version: str
    organization: str
    address: str
    taxa: tuple[Taxon, ...]

    def sarif(self) -> dict[str, Any]:
        """As a tool component of SARIF."""
        return {
            "name": self.name,
            "version": self.version,
            "organization": self.organization,
            "informationUri": self.address,
            "isComprehensive": False,
            "taxa": [{"id": one.id, "name": one.name, "shortDescription": {"text": one.text}} for one in self.taxa],
        }


TAXONOMIES = (
    Taxonomy(
        "MITRE ATLAS", "5.6.0", "MITRE", "https://atlas.mitre.org/",
        (Taxon("AML.T0018.000", "Poison AI Model", "The weights of a model are manipulated to plant a behaviour."),),
    ),
    Taxonomy(
        "OWASP Machine Learning Security Top 10", "2023 (draft)", "OWASP",
        "https://owasp.org/www-project-machine-learning-security-top-10/",
        (Taxon("ML10:2023", "Model Poisoning", "The parameters of a model are manipulated to change its behaviour."),),
    ),
)  # fmt: skip


def references() -> list[dict[str, Any]]:
    """Every entry, as a SARIF reference into the run's taxonomies."""
    return [
        {"id": one.id, "index": place, "toolComponent": {"name": taxonomy.name, "index": number}}
        for number, taxonomy in enumerate(TAXONOMIES)
        for place, one in enumerate(taxonomy.taxa)
    ]
