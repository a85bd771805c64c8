;; The start function traps: it runs while the module is instantiated, before any export is called.
(module
  (func $start unreachable)
  (func (export "manifest") (result i32) i32.const 0)
  (start $start))
