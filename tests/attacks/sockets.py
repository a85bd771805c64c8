"""Sockets of every family, and what can be done with the one that a worker has."""

from __future__ import annotations

import ctypes
import errno
import os
import signal
import socket
import struct

from attacks.files import opened
from attacks.kernel import call, memory, read
from attacks.registry import Foiled, Unavailable, attack
from attacks.targets import MARK, Targets

_SOL_SOCKET, _SO_PEERPIDFD = 1, 77
_SIOCUNIXFILE = 0x89E0
#: A frame of ZMTP that a peer answers and otherwise ignores: a descriptor has to travel with some bytes.
_PING = b"\x04\x07\x04PING\0\0"


def made(family: int, kind: int, protocol: int = 0) -> int:
    try:
        return call("socket", family, kind | socket.SOCK_CLOEXEC, protocol)
    except OSError as error:
        if error.errno == errno.EAFNOSUPPORT:
            raise Unavailable("this kernel has no such family") from None
        raise


def inet(port: int) -> bytes:
    return struct.pack("=H", socket.AF_INET) + struct.pack("!H4s8x", port, b"\x7f\0\0\x01")


def inet6(port: int) -> bytes:
    return struct.pack("=H", socket.AF_INET6) + struct.pack("!HI16sI", port, 0, bytes(15) + b"\x01", 0)


def local(path: str) -> bytes:
    return struct.pack("=H", socket.AF_UNIX) + path.encode()


def connected(fd: int, address: bytes) -> str:
    call("connect", fd, address, len(address))
    call("write", fd, MARK, len(MARK))
    return "connected, and sent"


def own_socket() -> int:
    """The worker's connection to its supervisor, found by trying every descriptor."""
    for fd in range(3, 256):
        try:
            call("getsockopt", fd, _SOL_SOCKET, socket.SO_TYPE, memory(4), length(4))
            call("getpeername", fd, memory(128), length(128))
        except OSError:
            continue
        return fd
    raise Foiled("no socket is to be found")


def length(value: int) -> ctypes.Array[ctypes.c_char]:
    size = memory(4)
    size[:4] = struct.pack("=I", value)
    return size  # type: ignore[no-any-return]


@attack
def connect_by_tcp(targets: Targets) -> str:
    """TCP to a server on this machine"""
    return connected(made(socket.AF_INET, socket.SOCK_STREAM), inet(targets.tcp_port))


@attack
def connect_by_tcp_over_ipv6(targets: Targets) -> str:
    """TCP over IPv6"""
    if not targets.tcp6_port:
        raise Unavailable("this machine has no IPv6")
    return connected(made(socket.AF_INET6, socket.SOCK_STREAM), inet6(targets.tcp6_port))


@attack
def connect_by_multipath_tcp(targets: Targets) -> str:
    """MPTCP, which checks for TCP may forget"""
    try:
        fd = made(socket.AF_INET, socket.SOCK_STREAM, 262)
    except OSError as error:
        if error.errno == errno.EPROTONOSUPPORT:
            raise Unavailable("this kernel has no MPTCP") from None
        raise
    return connected(fd, inet(targets.tcp_port))


@attack
def listen_by_tcp(targets: Targets) -> str:
    """bind and listen"""
    fd = made(socket.AF_INET, socket.SOCK_STREAM)
    call("bind", fd, inet(0), 16)
    call("listen", fd, 1)
    return "listening"


@attack
def fast_open(targets: Targets) -> str:
    """sendto with MSG_FASTOPEN: a connection without connect"""
    fd = made(socket.AF_INET, socket.SOCK_STREAM)
    address = inet(targets.tcp_port)
    call("sendto", fd, MARK, len(MARK), socket.MSG_FASTOPEN, address, len(address))
    return "connected, and sent"


@attack
def send_by_udp(targets: Targets) -> str:
    """one datagram, enough for a DNS tunnel"""
    address = inet(targets.udp_port)
    return f"{call('sendto', made(socket.AF_INET, socket.SOCK_DGRAM), MARK, len(MARK), 0, address, len(address))} bytes"


@attack
def raw_socket(targets: Targets) -> str:
    """raw IP"""
    return f"descriptor {made(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP)}"


@attack
def packet_socket(targets: Targets) -> str:
    """raw frames: everybody's traffic"""
    return f"descriptor {made(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))}"


@attack
def ping_socket(targets: Targets) -> str:
    """ICMP without privileges, where the kernel allows it"""
    try:
        return f"descriptor {made(socket.AF_INET, socket.SOCK_DGRAM, socket.IPPROTO_ICMP)}"
    except OSError as error:
        if error.errno == errno.EACCES:
            raise Unavailable("net.ipv4.ping_group_range allows nobody") from None
        raise


@attack
def ask_for_routes(targets: Targets) -> str:
    """netlink: addresses and routes of the machine"""
    fd = made(socket.AF_NETLINK, socket.SOCK_RAW, 0)
    request = struct.pack("=IHHII", 17, 18, 0x301, 1, 0) + b"\0"  # RTM_GETLINK, dump
    call("sendto", fd, request, len(request), 0, None, 0)
    return f"{len(read(fd))} bytes"


@attack
def kernel_crypto_socket(targets: Targets) -> str:
    """AF_ALG, a way into the kernel's crypto code"""
    return f"descriptor {made(38, socket.SOCK_SEQPACKET)}"


@attack
def virtual_machine_socket(targets: Targets) -> str:
    """vsock, to the hypervisor"""
    return f"descriptor {made(40, socket.SOCK_STREAM)}"


@attack
def bluetooth_socket(targets: Targets) -> str:
    """bluetooth"""
    return f"descriptor {made(31, socket.SOCK_RAW, 1)}"


@attack
def can_socket(targets: Targets) -> str:
    """CAN bus"""
    return f"descriptor {made(29, socket.SOCK_RAW, 1)}"


@attack
def express_data_path_socket(targets: Targets) -> str:
    """AF_XDP"""
    return f"descriptor {made(44, socket.SOCK_RAW)}"


@attack
def connect_by_path(targets: Targets) -> str:
    """a unix socket of the host's user (a session bus, an agent, a container engine)"""
    address = local(targets.unix_path)
    return connected(made(socket.AF_UNIX, socket.SOCK_STREAM), address)


@attack
def send_by_path(targets: Targets) -> str:
    """a datagram to a unix socket (syslog)"""
    address = local(targets.datagram_path)
    fd = made(socket.AF_UNIX, socket.SOCK_DGRAM)
    return f"{call('sendto', fd, MARK, len(MARK), 0, address, len(address))} bytes"


@attack
def connect_by_abstract_name(targets: Targets) -> str:
    """an abstract unix socket, which no folder protects"""
    address = local("\0" + targets.abstract_name)
    return connected(made(socket.AF_UNIX, socket.SOCK_STREAM), address)


@attack
def listen_by_abstract_name(targets: Targets) -> str:
    """an abstract unix socket of its own, for another worker to find"""
    address = local("\0isoplug-attack")
    fd = made(socket.AF_UNIX, socket.SOCK_STREAM)
    call("bind", fd, address, len(address))
    call("listen", fd, 1)
    return "listening"


@attack
def pair_of_sockets(targets: Targets) -> str:
    """socketpair: the start of passing descriptors"""
    ends = memory(8)
    call("socketpair", socket.AF_UNIX, socket.SOCK_STREAM, 0, ends)
    return "a pair"


@attack
def pass_a_descriptor(targets: Targets) -> str:
    """SCM_RIGHTS over the worker's own socket, into the supervisor"""
    data, vector, control = memory(len(_PING)), memory(16), memory(24)
    data[:] = _PING
    vector[:] = struct.pack("=QQ", ctypes.addressof(data), len(_PING))
    control[:20] = struct.pack("=QiiI", 20, _SOL_SOCKET, 1, 2)  # cmsghdr, one descriptor: standard error
    header = memory(56)
    header[:] = struct.pack("=QIIQQQQII", 0, 0, 0, ctypes.addressof(vector), 1, ctypes.addressof(control), 20, 0, 0)
    call("sendmsg", own_socket(), header, socket.MSG_DONTWAIT)
    return "sent"


@attack
def take_a_descriptor(targets: Targets) -> str:
    """recvmsg with room for descriptors, on the worker's own socket"""
    data, vector, control, header = memory(1), memory(16), memory(64), memory(56)
    vector[:] = struct.pack("=QQ", ctypes.addressof(data), 1)
    header[:] = struct.pack("=QIIQQQQII", 0, 0, 0, ctypes.addressof(vector), 1, ctypes.addressof(control), 64, 0, 0)
    try:
        call("recvmsg", own_socket(), header, socket.MSG_DONTWAIT)
    except BlockingIOError:
        return "it would have been taken"
    return "taken"


@attack
def process_descriptor_from_the_socket(targets: Targets) -> str:
    """SO_PEERPIDFD: a pidfd of the supervisor, from the worker's own socket"""
    pidfd = memory(4)
    call("getsockopt", own_socket(), _SOL_SOCKET, _SO_PEERPIDFD, pidfd, length(4))
    fd = struct.unpack("=i", pidfd.raw)[0]
    call("pidfd_send_signal", fd, 0, None, 0)
    return "could have signalled the supervisor"


@attack
def file_of_the_socket(targets: Targets) -> str:
    """ioctl SIOCUNIXFILE: a descriptor of the path that a socket was bound to"""
    fd = made(socket.AF_UNIX, socket.SOCK_DGRAM)
    path = f"{targets.folder}/bound"
    call("bind", fd, local(path), len(local(path)))
    return f"descriptor {call('ioctl', fd, _SIOCUNIXFILE, 0)}"


@attack
def bind_in_the_hosts_folder(targets: Targets) -> str:
    """bind makes a file wherever it is told"""
    address = local(f"{targets.folder}/socket")
    call("bind", made(socket.AF_UNIX, socket.SOCK_STREAM), address, len(address))
    return "bound"


@attack
def filter_on_the_own_socket(targets: Targets) -> str:
    """SO_ATTACH_FILTER: a program of the attacker's in the kernel"""
    program = memory(8)
    program[:] = struct.pack("=HBBI", 6, 0, 0, 0xFFFF_FFFF)
    header = memory(16)
    header[:] = struct.pack("=HxxxxxxQ", 1, ctypes.addressof(program))
    call("setsockopt", own_socket(), _SOL_SOCKET, 26, header, 16)
    return "attached"


@attack
def larger_buffers_on_the_own_socket(targets: Targets) -> str:
    """SO_SNDBUF: more of the kernel's memory for what the supervisor does not read"""
    call("setsockopt", own_socket(), _SOL_SOCKET, socket.SO_SNDBUF, length(1 << 20), 4)
    return "larger"


@attack
def signal_by_a_pipe(targets: Targets) -> str:
    """F_SETOWN and F_SETSIG: have the kernel send SIGKILL to a process when a pipe of the attacker's moves"""
    ends = memory(8)
    call("pipe2", ends, os.O_NONBLOCK)
    reading, writing = struct.unpack("=ii", ends.raw)
    call("fcntl", reading, 8, targets.victim_pid)  # F_SETOWN
    call("fcntl", reading, 10, signal.SIGKILL)  # F_SETSIG
    call("fcntl", reading, 4, os.O_ASYNC | os.O_NONBLOCK)  # F_SETFL
    call("write", writing, MARK, len(MARK))
    return "victim signalled"


@attack
def signal_by_an_inherited_descriptor(targets: Targets) -> str:
    """the same with the pipe of standard error, which the worker has anyway"""
    call("fcntl", 2, 8, targets.victim_pid)
    call("fcntl", 2, 10, signal.SIGKILL)
    call("fcntl", 2, 4, os.O_ASYNC | os.O_NONBLOCK)
    if call("fcntl", 2, 9) != targets.victim_pid:  # F_GETOWN
        raise Foiled("the owner is another one")
    return "it would be signalled when the pipe is read"


@attack
def controlling_terminal(targets: Targets) -> str:
    """TIOCSTI: type into a terminal"""
    fd = opened("/dev/ptmx", os.O_RDWR)
    call("ioctl", fd, 0x40045431, length(0))  # TIOCSPTLCK
    slave = call("ioctl", fd, 0x5441, os.O_RDWR)  # TIOCGPTPEER, which makes it the session's
    call("ioctl", slave, 0x5412, b"x")
    return "typed"
