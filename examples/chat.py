"""A question and its answer, as it is written: python examples/chat.py model.gguf 'What do bees eat in winter?'"""

import sys
from pathlib import Path

from edge import Chat, Engine

with Engine(Path(sys.argv[1])) as engine:
    for text in Chat(engine).send(sys.argv[2]):
        print(text, end="", flush=True)
