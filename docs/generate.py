"""Write the pages of docs/ that are made from code: run by `make docs`, checked by the tests."""

from pathlib import Path

from medsynth.data.formats_page import formats_page
from medsynth.reference import protocol_page

if __name__ == "__main__":
    (Path(__file__).parent / "protocol.md").write_text(protocol_page())
    (Path(__file__).parent / "formats.md").write_text(formats_page())
