"""The first signal is noted, the second acts, and outside nothing has changed."""

import contextlib
import os
import signal
import threading

import pytest

from audiodiff.training.stopping import StopSignal


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGHUP])
def test_a_signal_is_noted(number):
    of_caller = signal.signal(number, signal.SIG_DFL)  # a shell or nohup may have it ignored
    before = signal.getsignal(number)
    with StopSignal() as stop_signal:
        assert stop_signal.received is None
        os.kill(os.getpid(), number)
        assert stop_signal.received is number
        assert signal.getsignal(number) is before  # so a second one acts at once
    assert signal.getsignal(number) is before
    signal.signal(number, of_caller)


def test_handlers_are_restored_after_an_error():
    before = signal.getsignal(signal.SIGTERM)
    with contextlib.suppress(KeyError), StopSignal():
        assert signal.getsignal(signal.SIGTERM) is not before
        raise KeyError
    assert signal.getsignal(signal.SIGTERM) is before


def test_in_another_thread_signals_are_left_alone():
    before, seen = signal.getsignal(signal.SIGTERM), []

    def enter():
        with StopSignal():
            seen.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=enter)
    thread.start()
    thread.join()
    assert seen == [before]
