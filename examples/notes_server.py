"""A small MCP server that is worth having: notes with tags and full-text search, kept in one SQLite file.

    python examples/notes_server.py [--file notes.db] [--slow SECONDS] [--http PORT]

It speaks MCP over stdio, or over HTTP with --http, and both eras of the protocol. The examples and `make demo` put the
sidecar before it. Its tools say truthfully what they do: searching changes nothing, adding twice adds two notes.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime as dt
import os
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

from mcp.server.mcpserver import MCPServer
from mcp.server.mcpserver.exceptions import ToolError
from mcp.types import ToolAnnotations
from pydantic import BaseModel, Field

READS = ToolAnnotations(read_only_hint=True, open_world_hint=False)
ADDS = ToolAnnotations(read_only_hint=False, destructive_hint=False, idempotent_hint=False, open_world_hint=False)
REMOVES = ToolAnnotations(read_only_hint=False, destructive_hint=True, idempotent_hint=True, open_world_hint=False)

SCHEMA = """
CREATE VIRTUAL TABLE IF NOT EXISTS notes USING fts5(title, text, tags, created UNINDEXED);
"""


class Note(BaseModel):
    """One note."""

    id: int
    title: str
    text: str
    tags: list[str]
    created: str


class Notes:
    """The notes of one file. Every change is in the file when a method returns."""

    def __init__(self, path: Path, slow: float = 0.0) -> None:
        """`slow`: seconds that adding and searching take longer, for those who want to see what happens meanwhile."""
        self._path = path
        self._slow = slow
        with self._open() as database:
            database.executescript(SCHEMA)

    @contextlib.contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        database = sqlite3.connect(self._path, timeout=10)
        try:
            with database:
                yield database
        finally:
            database.close()

    def _select(self, rest: str, *values: object) -> list[Note]:
        with self._open() as database:
            rows = database.execute(f"SELECT rowid, title, text, tags, created FROM notes {rest}", values).fetchall()
        return [Note(id=row[0], title=row[1], text=row[2], tags=row[3].split(), created=row[4]) for row in rows]

    def add(self, title: str, text: str, tags: list[str]) -> Note:
        created = dt.datetime.now(dt.UTC).isoformat(timespec="seconds")
        with self._open() as database:
            cursor = database.execute("INSERT INTO notes VALUES (?, ?, ?, ?)", (title, text, " ".join(tags), created))
        time.sleep(self._slow)
        return self.get(cursor.lastrowid or 0)

    def get(self, number: int) -> Note:
        found = self._select("WHERE rowid = ?", number)
        if not found:
            raise ToolError(f"there is no note {number}")
        return found[0]

    def search(self, query: str, limit: int) -> list[Note]:
        time.sleep(self._slow)
        # every word, in any form that begins like it; the quotes keep the query language out
        words = " ".join(f'"{word.replace(chr(34), "")}"*' for word in query.split())
        return self._select("WHERE notes MATCH ? ORDER BY rank LIMIT ?", words, limit) if words else []

    def newest(self, limit: int) -> list[Note]:
        return self._select("ORDER BY rowid DESC LIMIT ?", limit)

    def delete(self, number: int) -> bool:
        with self._open() as database:
            return database.execute("DELETE FROM notes WHERE rowid = ?", (number,)).rowcount > 0


def build(notes: Notes) -> MCPServer:
    """The server over a file of notes."""
    server = MCPServer(
        "notes", version="1.0.0", instructions="Keeps notes. Search before you add.", log_level="WARNING"
    )

    @server.tool(annotations=ADDS)
    def add_note(
        title: Annotated[str, Field(min_length=1, max_length=200)],
        text: str,
        tags: Annotated[list[str], Field(description="Single words")] = [],  # noqa: B006 - never changed
    ) -> Note:
        """Add a note."""
        return notes.add(title, text, tags)

    @server.tool(annotations=READS)
    def search_notes(query: str, limit: Annotated[int, Field(ge=1, le=100)] = 10) -> list[Note]:
        """Find notes that hold every word of the query, best first."""
        return notes.search(query, limit)

    @server.tool(annotations=READS)
    def list_notes(limit: Annotated[int, Field(ge=1, le=100)] = 10) -> list[Note]:
        """The newest notes."""
        return notes.newest(limit)

    @server.tool(annotations=REMOVES)
    def delete_note(id: int) -> str:
        """Delete a note for good."""
        return "deleted" if notes.delete(id) else "there was none"

    @server.resource("notes://{number}", mime_type="text/markdown")
    def note(number: str) -> str:
        """A note as Markdown."""
        found = notes.get(int(number))
        return f"# {found.title}\n\n{found.text}\n\n{' '.join('#' + tag for tag in found.tags)}\n"

    return server


def main() -> None:
    """Serve until stdin is closed, or until interrupted over HTTP."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--file", type=Path, default=Path(os.environ.get("NOTES_FILE", "notes.db")))
    parser.add_argument(
        "--slow", type=float, default=0.0, metavar="SECONDS", help="let adding and searching take longer"
    )
    parser.add_argument("--http", type=int, metavar="PORT", help="serve http://127.0.0.1:PORT/mcp instead of stdio")
    options = parser.parse_args()
    server = build(Notes(options.file, options.slow))
    if options.http is None:
        server.run("stdio")
    else:
        server.run("streamable-http", host="127.0.0.1", port=options.http)


if __name__ == "__main__":
    main()
