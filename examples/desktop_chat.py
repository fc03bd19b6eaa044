"""A window to talk with a model: python examples/desktop_chat.py model.gguf

The window's thread never waits for the model. A thread of its own opens it and reads the answers, and puts what there
is to show into a queue; the window empties the queue some thirty times a second.
"""

from __future__ import annotations

import queue
import sys
import threading
import tkinter
from collections.abc import Callable
from pathlib import Path
from tkinter import scrolledtext

from edge import Chat, EdgeError, Engine, Reply

SHOW_EVERY_MS = 33
READY = "Ready. Write something below.\n\n"


class Model:
    """A conversation in a thread of its own. `show` is called in that thread with each piece of text."""

    def __init__(self, path: Path, show: Callable[[str], None]) -> None:
        self._path = path
        self._show = show
        self._questions: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self._reply: Reply | None = None
        self._is_closing = False
        self._thread = threading.Thread(target=self._run, name="model")
        self._thread.start()

    def ask(self, question: str) -> None:
        self._questions.put(question)

    def stop(self) -> None:
        """End the answer where it is."""
        if reply := self._reply:
            reply.cancel()

    def close(self) -> None:
        """End everything, without waiting for it: see `has_ended`."""
        self._is_closing = True
        self._questions.put(None)

    @property
    def has_ended(self) -> bool:
        return not self._thread.is_alive()

    def _run(self) -> None:
        try:
            with Engine(self._path) as engine:
                self._show(READY)
                chat = Chat(engine)
                while (question := self._questions.get()) and not self._is_closing:
                    self._answer(chat, question)
        except EdgeError as error:
            self._show(f"{error.message}\n{error.hint}\n")

    def _answer(self, chat: Chat, question: str) -> None:
        try:
            self._reply = chat.send(question)
            for text in self._reply:
                self._show(text)
                if self._is_closing:
                    break  # ends the answer too
        except EdgeError as error:  # the model's process may die; the next question starts another
            self._show(f"\n{error.message}\n{error.hint}")
        self._reply = None
        self._show("\n\n")


class Window:
    def __init__(self, path: Path) -> None:
        self.root = tkinter.Tk()
        self.root.title(path.stem)
        self.text = scrolledtext.ScrolledText(self.root, wrap="word", state="disabled", width=80, height=24)
        self.text.pack(fill="both", expand=True)
        self.entry = tkinter.Entry(self.root)
        self.entry.pack(side="left", fill="x", expand=True)
        self.entry.bind("<Return>", lambda event: self.ask())
        tkinter.Button(self.root, text="Send", command=self.ask).pack(side="left")
        tkinter.Button(self.root, text="Stop", command=lambda: self._model.stop()).pack(side="left")
        self.root.protocol("WM_DELETE_WINDOW", self.close)
        self.entry.focus()
        self._pieces: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._model = Model(path, self._pieces.put)
        self._show()

    def ask(self) -> None:
        question = self.entry.get().strip()
        if question:
            self.entry.delete(0, "end")
            self._append(f"> {question}\n")
            self._model.ask(question)

    def close(self) -> None:
        """Gone from the screen at once; a model that is being loaded takes a moment to end."""
        self.root.withdraw()
        self._model.close()
        self._end()

    def _end(self) -> None:
        if self._model.has_ended:
            self.root.destroy()
        else:
            self.root.after(SHOW_EVERY_MS, self._end)

    def _show(self) -> None:
        pieces = []
        while not self._pieces.empty():
            pieces.append(self._pieces.get())
        if pieces:
            self._append("".join(pieces))
        self.root.after(SHOW_EVERY_MS, self._show)

    def _append(self, text: str) -> None:
        self.text.configure(state="normal")
        self.text.insert("end", text)
        self.text.configure(state="disabled")
        self.text.see("end")


def main() -> None:
    if len(sys.argv) != 2:
        sys.exit("usage: python examples/desktop_chat.py model.gguf")
    Window(Path(sys.argv[1])).root.mainloop()


if __name__ == "__main__":
    main()
