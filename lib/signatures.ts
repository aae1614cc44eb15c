// Written by scripts/build.mjs from the addon itself: every op that C++ offers, one line each. Do not edit.

/** A tensor on the native side: its number in the table of the environment that made it. */
export type Handle = number & { readonly __brand: unique symbol }

export interface Ops {
  abs(x: Handle): Handle
  absGrad(x: Handle, dy: Handle): Handle
  accumulate(x: Handle, y: Handle): void
  add(a: Handle, b: Handle): Handle
  alias(x: Handle): Handle
  arange(start: number, step: number, count: number, dtype: number, device: number): Handle
  assign(from: Handle, to: Handle): void
  assignValue(value: number, to: Handle): void
  cast(x: Handle, dtype: number): Handle
  contiguous(x: Handle): Handle
  cos(x: Handle): Handle
  cosGrad(x: Handle, dy: Handle): Handle
  deviceOf(x: Handle): number
  div(a: Handle, b: Handle): Handle
  dtypeOf(x: Handle): number
  empty(shape: readonly number[], dtype: number, device: number): Handle
  eq(a: Handle, b: Handle): Handle
  exp(x: Handle): Handle
  expGrad(x: Handle, dy: Handle): Handle
  full(shape: readonly number[], value: number, dtype: number, device: number): Handle
  ge(a: Handle, b: Handle): Handle
  gelu(x: Handle): Handle
  geluGrad(x: Handle, dy: Handle): Handle
  geluTanh(x: Handle): Handle
  geluTanhGrad(x: Handle, dy: Handle): Handle
  gt(a: Handle, b: Handle): Handle
  le(a: Handle, b: Handle): Handle
  log(x: Handle): Handle
  logGrad(x: Handle, dy: Handle): Handle
  lt(a: Handle, b: Handle): Handle
  maximum(a: Handle, b: Handle): Handle
  minimum(a: Handle, b: Handle): Handle
  mul(a: Handle, b: Handle): Handle
  ne(a: Handle, b: Handle): Handle
  neg(x: Handle): Handle
  negGrad(x: Handle, dy: Handle): Handle
  pow(a: Handle, b: Handle): Handle
  relu(x: Handle): Handle
  relu2(x: Handle): Handle
  relu2Grad(x: Handle, dy: Handle): Handle
  reluGrad(x: Handle, dy: Handle): Handle
  shapeOf(x: Handle): readonly number[]
  sigmoid(x: Handle): Handle
  sigmoidGrad(x: Handle, dy: Handle): Handle
  sign(x: Handle): Handle
  signGrad(x: Handle, dy: Handle): Handle
  silu(x: Handle): Handle
  siluGrad(x: Handle, dy: Handle): Handle
  sin(x: Handle): Handle
  sinGrad(x: Handle, dy: Handle): Handle
  sqrt(x: Handle): Handle
  sqrtGrad(x: Handle, dy: Handle): Handle
  stridesOf(x: Handle): readonly number[]
  sub(a: Handle, b: Handle): Handle
  tanh(x: Handle): Handle
  tanhGrad(x: Handle, dy: Handle): Handle
}
