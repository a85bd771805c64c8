"""Attacks as native code in a worker: what a guest does that has broken out of WebAssembly.

A *campaign* starts a real supervisor whose zygote has imported ``hostile``. That replaces one thing: the raw export
``attack`` of a guest runs one of the functions here instead of WebAssembly. All else is the product's own: zygote,
lock-down, worker, frames. Layers of the lock-down are left out by making their functions do nothing, in the zygote,
before anything is forked.

==============  ====================================================================================================
registry        ``attack``, ``ATTACKS``, ``Foiled``, ``Unavailable``; what an attack may end in
targets         what there is to attack: files, sockets, processes, a secret; JSON, made by the campaign
kernel          system calls by name, for any architecture whose header there is
machine_code    instructions that were in the process before it was locked, as those of a code-reuse chain would be
files … undoing the attacks, one module a family; each proves by itself that it got what it wanted
questions       no attacks: what tests ask a locked worker
hostile         imported by the zygote
campaign        runs attacks, says how each ended
==============  ====================================================================================================

No attack may hurt the machine when it succeeds, because without lock-down, as root, most do: they aim at processes and
files made for them, at settings set to the value they have, or at calls that are refused for their arguments after the
privilege was checked.
"""
