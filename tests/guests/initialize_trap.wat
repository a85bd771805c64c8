;; `_initialize`, which Extism calls in reactor modules, traps.
(module
  (func (export "_initialize") unreachable)
  (func (export "manifest") (result i32) i32.const 0))
