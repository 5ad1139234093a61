"""Write the pages of docs/ that are made from code: run by `make docs`, checked by the tests."""

from pathlib import Path

from api_page import api_page
from commands_page import commands_page

from medsynth.data.formats_page import formats_page
from medsynth.reference import protocol_page

PAGES = {
    "protocol.md": protocol_page,
    "formats.md": formats_page,
    "commands.md": commands_page,
    "api.md": api_page,
}

if __name__ == "__main__":
    for name, page in PAGES.items():
        (Path(__file__).parent / name).write_text(page())
