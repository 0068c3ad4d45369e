from __future__ import annotations

import pytest

from dragonfly.store.errors import Compacted, Denied, FutureRevision, LeaseLost, NoSpace, Rejected, TooLarge
from dragonfly.store.faults import Fault, TokenRefused, fault_of


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        ('{"code":11,"message":"etcdserver: mvcc: required revision has been compacted"}', Compacted),
        ('{"code":11,"message":"etcdserver: mvcc: required revision is a future revision"}', FutureRevision),
        ('{"code":5,"message":"etcdserver: requested lease not found"}', LeaseLost),
        ('{"code":8,"message":"etcdserver: mvcc: database space exceeded"}', NoSpace),
        ('{"code":7,"message":"etcdserver: permission denied"}', Denied),
        ('{"code":3,"message":"etcdserver: user name is empty"}', Denied),
        ('{"code":3,"message":"etcdserver: request is too large"}', TooLarge),
        ('{"code":3,"message":"etcdserver: duplicate key given in txn request"}', Rejected),
        ('{"code":3,"message":"invalid character"}', Rejected),
        ('{"code":16,"message":"etcdserver: invalid auth token"}', TokenRefused),
        ('{"error":{"code":16,"message":"etcdserver: invalid auth token"}}', TokenRefused),
        ('{"error":{"grpc_code":16,"message":"etcdserver: invalid auth token"}}', TokenRefused),
        ('{"error":"etcdserver: no leader","code":14,"message":"etcdserver: no leader"}', Fault),
        ('{"code":3,"message":"etcdserver: revision of auth store is old"}', TokenRefused),
        ('{"code":14,"message":"etcdserver: request timed out"}', Fault),
        ('{"code":2,"message":"not a primary lessor"}', Fault),
        ('{"code":2,"message":"etcdserver: leader changed"}', Fault),
        ("{}", Fault),
        ("<html>502</html>", Fault),
        ("", Fault),
    ],
)
def test_each_message_has_its_type(body: str, kind: type[Exception]) -> None:
    assert type(fault_of(body, "502 Bad Gateway")) is kind


@pytest.mark.parametrize(
    ("message", "unsent"),
    [
        ("etcdserver: no leader", True),
        ("etcdserver: too many requests", True),
        ("etcdserver: leader changed", False),
        ("etcdserver: request timed out, possibly due to previous leader failure", False),
        ("etcdserver: server stopped", False),
        ("error reading from server: EOF", False),
        ("the relay did not ask etcd: permission denied by invalid auth token", True),
        ("the relay got no answer of etcd's: no leader", False),
    ],
)
def test_only_what_was_refused_before_the_proposal_is_unsent(message: str, unsent: bool) -> None:
    found = fault_of(f'{{"code":14,"message":"{message}"}}')

    assert isinstance(found, Fault)
    assert found.unsent is unsent


def test_an_answer_that_is_not_etcds_tells_its_status() -> None:
    for body in ("<html>", '{"type":"/problems/bad-gateway","status":502}'):
        assert "502 Bad Gateway" in str(fault_of(body, "502 Bad Gateway"))
