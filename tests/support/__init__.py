"""What tests are made with: small models and studies, oracles, servers, browsers."""

from pathlib import Path

ROOT = Path(__file__).parents[2]
