"""Small tables that the tests of this package write."""

import pyarrow as pa
import pytest

from mmgenre.tables.manifest import Recipe
from mmgenre.tables.output import Output
from mmgenre.tables.table import Table, TableWriter

SCHEMA = pa.schema([pa.field("imdb_id", pa.string(), nullable=False), pa.field("plot", pa.string())])


class Tables:
    """Writes and reads tables of `schema`, whose recipe is the keyword arguments."""

    schema = SCHEMA

    @staticmethod
    def recipe(job="test", inputs=None, **settings):
        return Recipe(job=job, settings=settings, inputs=inputs or {})

    @staticmethod
    def rows(*ids):
        return pa.table({"imdb_id": pa.array(ids, pa.string()), "plot": [f"plot of {name}" for name in ids]})

    def output(self, folder, *, mode="fresh", overwrite=False, **recipe):
        return Output(str(folder), self.recipe(**recipe), mode=mode, overwrite=overwrite)

    def complete(self, folder, *ids, **output):
        with self.output(folder, **output) as opened:
            writer = TableWriter(opened, SCHEMA)
            writer.write(self.rows(*ids))
            return writer.finish(rows_in=len(ids))

    def unfinished(self, folder, *ids, **output):
        with self.output(folder, **output) as opened:
            TableWriter(opened, SCHEMA).write(self.rows(*ids))

    @staticmethod
    def ids(folder):
        return Table(str(folder)).read()["imdb_id"].to_pylist()

    @staticmethod
    def names(folder):
        """File names, without the claim of the run that writes."""
        return sorted(path.name for path in folder.iterdir() if not path.name.startswith("_claim-"))


@pytest.fixture(scope="session")
def tables():
    """See Tables."""
    return Tables()
