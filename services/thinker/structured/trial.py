"""Compiles clients' grammars in processes that may die: `python -m services.thinker.structured.trial`.

A grammar may take any time, memory and stack to compile, and xgrammar cannot be interrupted. So each is compiled here
first, in a fork of this process with limits on all three, and only then by vLLM. The vocabulary is one of bytes: it
shows what the grammar itself takes.

A request is a line of JSON on standard input, {form: text}, and its answer a line on standard output. One at a time.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import sys
import threading
from collections.abc import Callable, Mapping

import xgrammar

FINE, REFUSED, TOO_COMPLEX = "fine", "refused", "too complex"
STRUCTURAL_TAG, REGEX, EBNF, LARK = "structural_tag", "regex", "ebnf", "lark"

# Of processor time. vLLM parses a grammar once more on the thinker's event loop.
MAX_PARSE_S = 0.25
MAX_COMPILE_S = 1.0
MAX_BYTES = 512 * 1024 * 1024
# vLLM's own threads have eight times as much.
STACK_BYTES = 1 << 20

_PARSE: Mapping[str, Callable[[str], xgrammar.Grammar]] = {
    STRUCTURAL_TAG: xgrammar.Grammar.from_structural_tag,
    REGEX: xgrammar.Grammar.from_regex,
    EBNF: xgrammar.Grammar.from_ebnf,
    LARK: xgrammar.Grammar.from_lark,
}
_EXITS = {0: FINE, 1: REFUSED}


def main() -> None:
    end = 256
    bytes_alone = xgrammar.TokenizerInfo(
        [*(bytes([byte]) for byte in range(end)), b"<end>"], xgrammar.VocabType.RAW, stop_token_ids=[end]
    )
    for line in sys.stdin.buffer:
        ((form, text),) = json.loads(line).items()
        print(_try_in_a_fork(_PARSE[form], text, bytes_alone), flush=True)  # noqa: T201  # the answer


def _try_in_a_fork(parse: Callable[[str], xgrammar.Grammar], text: str, tokens: xgrammar.TokenizerInfo) -> str:
    pid = os.fork()
    if pid == 0:
        os._exit(_try(parse, text, tokens))
    _, status = os.waitpid(pid, 0)
    return _EXITS.get(os.waitstatus_to_exitcode(status), TOO_COMPLEX)


def _try(parse: Callable[[str], xgrammar.Grammar], text: str, tokens: xgrammar.TokenizerInfo) -> int:
    """Return the exit status. A limit that is reached ends the process with another one, or by a signal."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # xgrammar's warnings quote the client
    most_bytes = _address_space_bytes() + MAX_BYTES
    resource.setrlimit(resource.RLIMIT_AS, (most_bytes, most_bytes))
    status = 2

    def compile_it() -> None:
        nonlocal status
        signal.setitimer(signal.ITIMER_PROF, MAX_PARSE_S)
        try:
            grammar = parse(text)
            signal.setitimer(signal.ITIMER_PROF, MAX_COMPILE_S)
            xgrammar.GrammarCompiler(tokens, max_threads=1, cache_enabled=False).compile_grammar(grammar)
            status = 0
        except MemoryError:
            pass
        except Exception:  # its errors have no common type
            status = 1

    threading.stack_size(STACK_BYTES)
    thread = threading.Thread(target=compile_it)
    thread.start()
    thread.join()
    return status


def _address_space_bytes() -> int:
    with open("/proc/self/statm", encoding="ascii") as sizes:  # noqa: PTH123
        return int(sizes.read().split()[0]) * resource.getpagesize()


if __name__ == "__main__":
    main()
