from __future__ import annotations

import copy
import gc
import pickle
import threading
import weakref
from collections.abc import Callable

import pytest
from client import Client, Pipe
from hypothesis import given
from hypothesis import strategies as st

from snakepit_bridge import Context
from snakepit_bridge._commands.sessions import (
    MAX_ID_BYTES,
    Session,
    SessionKey,
    Sessions,
    check_id,
)
from snakepit_bridge._errors.call_error import CallError

Connect = Callable[..., Client]
MakePipe = Callable[[str], Pipe]


class User:
    pass


def visit(sessions: Sessions, session_id: str, generation: int = 0) -> Session:
    return sessions.get(SessionKey(session_id), User(), generation)


def test_a_session_is_a_dict_that_its_calls_share() -> None:
    sessions = Sessions()
    visit(sessions, "s")["count"] = 1
    assert visit(sessions, "s") == {"count": 1}
    assert visit(sessions, "t") == {}
    assert sessions.count == 2


def test_the_least_recently_used_session_is_removed_first() -> None:
    sessions = Sessions(max_sessions=2)
    one = visit(sessions, "one")
    visit(sessions, "two")
    visit(sessions, "one")
    visit(sessions, "three")
    assert sessions.count == 2
    assert visit(sessions, "one") is one


def test_a_session_in_use_is_not_removed_and_its_time_counts_from_the_end_of_the_call() -> None:
    sessions = Sessions(max_sessions=1)
    user = User()
    used = sessions.get(SessionKey("used"), user)
    visit(sessions, "other")
    assert sessions.get(SessionKey("used"), user) is used
    del user
    assert sessions.count == 1
    assert visit(sessions, "used") is used


def test_a_call_that_only_belongs_to_a_session_keeps_it_too() -> None:
    sessions = Sessions(max_sessions=1)
    kept = visit(sessions, "kept")
    context = Context(session_id="kept", sessions=sessions)
    visit(sessions, "other")
    assert context.session is kept


def test_unused_sessions_expire_without_being_accessed() -> None:
    sessions = Sessions(ttl=0)
    user = User()
    used = sessions.get(SessionKey("used"), user)
    visit(sessions, "unused")
    assert sessions.count == 1
    assert sessions.get(SessionKey("used"), user) is used
    del user
    assert sessions.count == 0


def test_a_later_generation_of_a_session_finds_no_state_of_an_earlier_one() -> None:
    sessions = Sessions()
    visit(sessions, "s", 1)["old"] = True
    assert visit(sessions, "s", 2) == {}
    visit(sessions, "s", 2)["new"] = True
    assert visit(sessions, "s", 1) == {}
    assert visit(sessions, "s", 2) == {"new": True}
    assert visit(sessions, "s") == {"new": True}


def test_an_ended_session_is_gone_unless_it_has_begun_anew() -> None:
    sessions = Sessions()
    visit(sessions, "s", 2)
    assert not sessions.end(SessionKey("s"), 1)
    assert sessions.end(SessionKey("s"), 2)
    assert not sessions.end(SessionKey("s"))
    visit(sessions, "s", 3)
    assert sessions.end(SessionKey("s"))
    assert sessions.count == 0


def test_nothing_of_an_ended_session_is_kept() -> None:
    sessions = Sessions()
    kept = weakref.ref(visit(sessions, "s"))
    assert kept() is not None
    sessions.end(SessionKey("s"))
    assert kept() is None


def test_a_call_whose_session_ends_meanwhile_keeps_its_dict() -> None:
    sessions = Sessions()
    user = User()
    session = sessions.get(SessionKey("s"), user)
    sessions.end(SessionKey("s"))
    session["mine"] = True
    assert visit(sessions, "s") == {}
    del user
    assert sessions.count == 1


def test_a_call_that_first_reads_its_session_after_its_end_finds_its_dict() -> None:
    ended: list[Session] = []
    for on_end in (None, lambda _id, session: ended.append(session)):
        sessions = Sessions(on_end=on_end)
        visit(sessions, "s", 1)["mine"] = True
        context = Context(session_id="s", session_generation=1, sessions=sessions)
        sessions.end(SessionKey("s"), 1)
        assert context.session == {"mine": True}
        assert sessions.count == 0
        assert ended == []
        del context
    assert sessions.count == 0
    assert ended == [{"mine": True}]


def test_a_user_collected_in_a_cycle_no_longer_counts() -> None:
    sessions = Sessions(ttl=0)
    user = User()
    user.__dict__["self"] = user
    sessions.get(SessionKey("s"), user)
    del user
    gc.collect()
    assert sessions.count == 0


def test_threads_lose_no_count() -> None:
    sessions = Sessions(max_sessions=4)
    names = ["a", "b", "c", "d"]

    def count(name: str) -> None:
        for _ in range(500):
            context = Context(session_id=name, sessions=sessions)
            with context.session.lock:
                context.session["count"] = context.session.get("count", 0) + 1

    threads = [threading.Thread(target=count, args=(name,)) for name in names * 2]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [visit(sessions, name)["count"] for name in names] == [1000] * 4


@given(st.text(max_size=MAX_ID_BYTES // 4))
def test_any_string_is_an_id_except_empty_ones_and_those_with_nul(text: str) -> None:
    if text and "\0" not in text:
        check_id(text)
    else:
        with pytest.raises(CallError, match="without NUL"):
            check_id(text)


def test_a_context_without_a_session_says_so() -> None:
    with pytest.raises(RuntimeError, match="execute_in_session"):
        _ = Context().session
    assert Context(session_id="s").session == {}


def test_calls_count_in_their_session(client: Client) -> None:
    for expected in (1, 2, 3):
        call = client.begin("count_in_session", {}, session_id="counted")
        assert call.result().result["result"] == str(expected).encode()
    other = client.begin("count_in_session", {}, session_id="other")
    assert other.result().result["result"] == b"1"


def test_only_sessions_with_state_are_active_and_ending_one_frees_it(connect: Connect) -> None:
    client = connect()
    client.begin("ping", {}, session_id="stateless").result()
    client.begin("count_in_session", {}, session_id="counted", session_generation=7).result()
    assert client.info(include_stats=True).stats.active_sessions == 1
    assert not client.end_session("counted", 6)
    assert client.end_session("counted", 7)
    assert not client.end_session("counted")
    assert client.info(include_stats=True).stats.active_sessions == 0


def test_clients_share_no_session_and_their_generations_do_not_compare(connect: Connect) -> None:
    client = connect()

    def count(client_id: int, generation: int) -> bytes:
        session = {"session_id": "s", "client_id": client_id, "session_generation": generation}
        response = client.begin("count_in_session", {}, **session).result()
        result: bytes = response.result["result"]
        return result

    # The second client has begun fewer sessions than the first.
    for expected in (b"1", b"2", b"3"):
        assert count(2**63 + 1, 900) == expected
        assert count(7, 3) == expected
        assert count(0, 0) == expected
    assert client.end_session("s", client_id=7)
    assert not client.end_session("s", client_id=7)
    assert count(7, 4) == b"1"
    assert count(2**63 + 1, 900) == count(0, 0) == b"4"


def test_the_bounds_are_options_and_spare_a_session_that_a_call_uses(
    connect: Connect, pipe: MakePipe
) -> None:
    client = connect("--max-sessions", "1", "--session-ttl", "inf", "--max-concurrency", "2")
    started, until = pipe("started"), pipe("until")
    args = {"started": started.path, "until": until.path}
    held = client.begin("hold_session", args, session_id="held")
    assert started.line() == "started"
    client.begin("count_in_session", {}, session_id="held").result()
    client.begin("count_in_session", {}, session_id="other").result()
    until.send("go")
    assert held.result().result["result"] == b"1"


@pytest.mark.parametrize("session_id", ["", "a\0b", "x" * 1_000_000])
def test_hostile_ids_are_refused_and_the_error_names_the_limit(
    client: Client, session_id: str
) -> None:
    response = client.begin("ping", {}, session_id=session_id).result()
    assert response.error_detail.reason == "invalid_args"
    assert str(MAX_ID_BYTES) in response.error
    (chunk,) = client.stream("ping_stream", {}, session_id=session_id)
    assert chunk.error_detail.reason == "invalid_args"


def test_a_copy_of_a_session_is_a_plain_dict() -> None:
    session = visit(Sessions(), "a")
    session["items"] = [1]
    for made in (copy.copy(session), copy.deepcopy(session), pickle.loads(pickle.dumps(session))):
        assert type(made) is dict
        assert made == {"items": [1]}
