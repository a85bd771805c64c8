;; The start function calls a host function, at a time when Extism is not ready for it.
(module
  (import "extism:host/user" "host_log" (func $host_log (param i64) (result i64)))
  (func $start (drop (call $host_log (i64.const 0))))
  (func (export "manifest") (result i32) i32.const 0)
  (start $start))
