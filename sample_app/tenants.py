"""The customers of this application. Each has an import queue of its own."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Tenant:
    slug: str
    name: str

    @property
    def import_queue(self) -> str:
        """Imports of one tenant run one after another, those of different tenants side by side."""
        return f"import:{self.slug}"

    @property
    def map_queue(self) -> str:
        return f"map:{self.slug}"


TENANTS = {
    tenant.slug: tenant
    for tenant in (
        Tenant("northwind", "Northwind"),
        Tenant("globex", "Globex"),
        Tenant("initech", "Initech"),
    )
}
