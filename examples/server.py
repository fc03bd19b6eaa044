"""An OpenAI-compatible server in a thread of this program, for as long as the block lasts.

python examples/server.py model.gguf
"""

import sys
from pathlib import Path

from edge import ModelSettings
from edge.server.background import BackgroundServer
from edge.server.model_files import open_model, source_of
from edge.server.model_pool import ModelPool

pool = ModelPool([source_of("local", Path(sys.argv[1]), ModelSettings())], open_model)
with BackgroundServer(pool) as server:  # on a port that is free
    print(f"Ready at {server.url}/v1. Enter ends it.", flush=True)
    sys.stdin.readline()
