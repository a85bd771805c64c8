"""What there is to attack, as the attacker is told it: paths, ports, process ids, addresses."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass

__all__ = ["MARK", "SECRET_PREFIX", "Targets"]

#: A secret is this and 32 further bytes. The attacker knows the prefix and the hash, so that what it knows is not
#: itself what it looks for.
SECRET_PREFIX = b"isoplug-canary-"

#: What an attack writes where it may not write.
MARK = b"the attacker was here"


@dataclass(frozen=True)
class Targets:
    supervisor_pid: int
    secret_path: str  #: readable by the supervisor's user alone
    secret_sha256: str
    secret_address: int  #: of the secret in the supervisor's memory
    secret_fd: int  #: a descriptor of the supervisor's, open on ``secret_path``
    mark_address: int  #: of a buffer in the supervisor's memory
    folder: str  #: writable by the supervisor's user alone
    victim_pid: int  #: of a process of the supervisor's user that does nothing
    sibling_pid: int  #: of another plugin's worker
    sibling_wasm: str  #: path of the other plugin's module
    state_dir: str
    tcp_port: int  #: on 127.0.0.1
    tcp6_port: int  #: on ::1; 0: this machine has no IPv6
    udp_port: int  #: on 127.0.0.1
    unix_path: str  #: a listener of the supervisor's user
    datagram_path: str
    abstract_name: str
    handed_over: str = ""  #: whatever a test lets a worker have

    def is_secret(self, data: bytes) -> bool:
        return hashlib.sha256(data).hexdigest() == self.secret_sha256

    @property
    def secret_length(self) -> int:
        return len(SECRET_PREFIX) + 32

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Targets:
        return cls(**json.loads(text))
