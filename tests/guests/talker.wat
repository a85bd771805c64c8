;; `talk` writes 64 KiB to WASI's standard error, a piece at a time, and then never ends.
(module
  (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
  (import "extism:host/env" "alloc" (func $alloc (param i64) (result i64)))
  (import "extism:host/env" "store_u8" (func $store (param i64 i32)))
  (import "extism:host/env" "output_set" (func $output (param i64 i64)))
  (memory (export "memory") 1)
  (data (i32.const 0) "\10\00\00\00\40\00\00\00") ;; an iovec: at 16, 64 bytes
  (data (i32.const 16) "said by the guest, said by the guest, said by the guest, again.\n")
  (data (i32.const 128) "{\"id\":\"test.talker\",\"name\":\"Talker\",\"version\":\"1\",\"description\":\"\",\"capabilities\":[]}")
  (func (export "manifest") (result i32)
    (local $at i32) (local $room i64)
    (local.set $room (call $alloc (i64.const 85)))
    (loop $next
      (call $store (i64.add (local.get $room) (i64.extend_i32_u (local.get $at)))
                   (i32.load8_u (i32.add (i32.const 128) (local.get $at))))
      (br_if $next (i32.lt_u (local.tee $at (i32.add (local.get $at) (i32.const 1))) (i32.const 85))))
    (call $output (local.get $room) (i64.const 85))
    i32.const 0)
  (func (export "talk") (result i32)
    (local $times i32)
    (loop $again
      (drop (call $write (i32.const 2) (i32.const 0) (i32.const 1) (i32.const 8)))
      (br_if $again (i32.lt_u (local.tee $times (i32.add (local.get $times) (i32.const 1))) (i32.const 1024))))
    (loop $for_ever br $for_ever)
    i32.const 0))
