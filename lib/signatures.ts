// Written by scripts/build.mjs from the addon itself: every op that C++ offers, one line each. Do not edit.

/** A tensor on the native side: its number in the table of the environment that made it. */
export type Handle = number & { readonly __brand: unique symbol }

export interface Ops {
  abs(x: Handle): Handle
  absGrad(x: Handle, dy: Handle): Handle
  accumulate(x: Handle, y: Handle): void
  adamw(p: Handle, g: Handle, m: Handle, v: Handle, half: Handle | null, hyper: Handle, state: Handle): void
  add(a: Handle, b: Handle): Handle
  addGrad(first: boolean, a: Handle, b: Handle, dy: Handle): Handle
  addLayerNorm(x: Handle, residual: Handle, weight: Handle | null, bias: Handle | null, eps: number): [Handle, Handle, Handle, Handle]
  addRmsNorm(x: Handle, residual: Handle, weight: Handle | null, eps: number): [Handle, Handle, Handle]
  addScalar(x: Handle, value: number, first: boolean): Handle
  alias(x: Handle): Handle
  arange(start: number, step: number, count: number, dtype: number, device: number): Handle
  argmax(x: Handle, axis: number | null, keepdims: boolean): Handle
  assign(from: Handle, to: Handle): void
  assignValue(value: number, to: Handle): void
  attention(q: Handle, k: Handle, v: Handle, scale: number, causal: boolean): [Handle, Handle]
  attentionGrad(q: Handle, k: Handle, v: Handle, y: Handle, lse: Handle, dy: Handle, scale: number, causal: boolean): [Handle, Handle, Handle]
  broadcastTo(x: Handle, shape: readonly number[]): Handle
  cast(x: Handle, dtype: number): Handle
  clamp(x: Handle, low: number, high: number): Handle
  clampGrad(x: Handle, dy: Handle, low: number, high: number): Handle
  clipCoefficient(sums: Handle, loss: Handle | null, maxNorm: number, state: Handle): void
  combine(x: Handle, order: Handle, weights: Handle): Handle
  combineGrad(x: Handle, order: Handle, weights: Handle, dy: Handle): [Handle, Handle]
  concat(all: readonly Handle[], axis: number): Handle
  contiguous(x: Handle): Handle
  cos(x: Handle): Handle
  cosGrad(x: Handle, dy: Handle): Handle
  countUpdate(state: Handle): void
  crossEntropy(logits: Handle, targets: Handle, ignore: number): [Handle, Handle]
  crossEntropyGrad(logits: Handle, targets: Handle, ignore: number, stats: Handle, dy: Handle, over: boolean): Handle
  cumsum(x: Handle, axis: number, reverse: boolean): Handle
  deviceOf(x: Handle): number
  div(a: Handle, b: Handle): Handle
  divGrad(first: boolean, a: Handle, b: Handle, dy: Handle): Handle
  divScalar(x: Handle, value: number, first: boolean): Handle
  dropout(x: Handle, state: Handle, call: number, p: number): Handle
  dtypeOf(x: Handle): number
  embedding(ids: Handle, weight: Handle): Handle
  embeddingGrad(ids: Handle, dy: Handle, vocabulary: number, sum: Handle | null): Handle
  empty(shape: readonly number[], dtype: number, device: number): Handle
  eq(a: Handle, b: Handle): Handle
  eqScalar(x: Handle, value: number): Handle
  exp(x: Handle): Handle
  expGrad(x: Handle, dy: Handle): Handle
  extremeGrad(x: Handle, y: Handle, dy: Handle, axes: readonly number[] | null): Handle
  full(shape: readonly number[], value: number, dtype: number, device: number): Handle
  gather(x: Handle, axis: number, index: Handle): Handle
  gatherGrad(dy: Handle, axis: number, index: Handle, shape: readonly number[]): Handle
  gatherRows(x: Handle, order: Handle): Handle
  gatherRowsGrad(dy: Handle, order: Handle, tokens: number): Handle
  ge(a: Handle, b: Handle): Handle
  geScalar(x: Handle, value: number): Handle
  gelu(x: Handle): Handle
  geluGrad(x: Handle, dy: Handle): Handle
  geluTanh(x: Handle): Handle
  geluTanhGrad(x: Handle, dy: Handle): Handle
  groupByExpert(experts: Handle, count: number): [Handle, Handle]
  groupedMatmul(x: Handle, w: Handle, offsets: Handle): Handle
  groupedMatmulGradWeight(x: Handle, dy: Handle, w: Handle, offsets: Handle, sum: Handle | null): Handle
  groupedMatmulGradX(dy: Handle, w: Handle, offsets: Handle): Handle
  gt(a: Handle, b: Handle): Handle
  gtScalar(x: Handle, value: number): Handle
  indexSelect(x: Handle, axis: number, ids: Handle): Handle
  indexSelectGrad(dy: Handle, axis: number, ids: Handle, shape: readonly number[]): Handle
  layerNorm(x: Handle, weight: Handle | null, bias: Handle | null, eps: number): [Handle, Handle, Handle]
  layerNormGrad(x: Handle, weight: Handle | null, mean: Handle, rstd: Handle, dy: Handle, dsum: Handle | null, wantWeight: boolean, wantBias: boolean): [Handle, Handle, Handle]
  le(a: Handle, b: Handle): Handle
  leScalar(x: Handle, value: number): Handle
  linear(x: Handle, weight: Handle, bias: Handle | null, residual: Handle | null): Handle
  linearActivation(x: Handle, weight: Handle, bias: Handle | null, residual: Handle | null, activation: string, keep: boolean): [Handle, Handle]
  linearCrossEntropy(x: Handle, weight: Handle, targets: Handle, ignore: number, wantX: boolean, wantWeight: boolean): [Handle, Handle, Handle]
  linearGradWeight(x: Handle, dy: Handle, sum: Handle | null): Handle
  linearGradX(dy: Handle, weight: Handle): Handle
  log(x: Handle): Handle
  logGrad(x: Handle, dy: Handle): Handle
  logSoftmax(x: Handle): Handle
  logSoftmaxGrad(y: Handle, dy: Handle): Handle
  logsumexp(x: Handle): Handle
  logsumexpGrad(x: Handle, y: Handle, dy: Handle): Handle
  lt(a: Handle, b: Handle): Handle
  ltScalar(x: Handle, value: number): Handle
  matmul(a: Handle, b: Handle): Handle
  matmulGradA(a: Handle, b: Handle, dy: Handle): Handle
  matmulGradB(a: Handle, b: Handle, dy: Handle): Handle
  max(x: Handle, axes: readonly number[] | null, keepdims: boolean): Handle
  maximum(a: Handle, b: Handle): Handle
  maximumGrad(first: boolean, a: Handle, b: Handle, dy: Handle): Handle
  maximumScalar(x: Handle, value: number, first: boolean): Handle
  mean(x: Handle, axes: readonly number[] | null, keepdims: boolean): Handle
  min(x: Handle, axes: readonly number[] | null, keepdims: boolean): Handle
  minimum(a: Handle, b: Handle): Handle
  minimumGrad(first: boolean, a: Handle, b: Handle, dy: Handle): Handle
  minimumScalar(x: Handle, value: number, first: boolean): Handle
  mul(a: Handle, b: Handle): Handle
  mulGrad(first: boolean, a: Handle, b: Handle, dy: Handle): Handle
  mulScalar(x: Handle, value: number, first: boolean): Handle
  ne(a: Handle, b: Handle): Handle
  neScalar(x: Handle, value: number): Handle
  neg(x: Handle): Handle
  negGrad(x: Handle, dy: Handle): Handle
  oneHot(ids: Handle, classes: number, dtype: number): Handle
  ownsMemory(x: Handle): boolean
  permute(x: Handle, axes: readonly number[]): Handle
  polyNorm(x: Handle, weight: Handle, bias: Handle, offsets: Handle | null, eps: number): Handle
  polyNormDown(h: Handle, norms: Handle, weight: Handle, bias: Handle, down: Handle, offsets: Handle | null, eps: number, keep: boolean): [Handle, Handle]
  polyNormGlu(gate: Handle, up: Handle, weight: Handle, bias: Handle, offsets: Handle | null, eps: number): Handle
  polyNormGluGrad(gate: Handle, up: Handle, weight: Handle, bias: Handle, offsets: Handle | null, eps: number, dy: Handle): [Handle, Handle, Handle, Handle]
  polyNormGrad(x: Handle, weight: Handle, offsets: Handle | null, eps: number, dy: Handle): [Handle, Handle, Handle]
  polyNormUp(x: Handle, up: Handle, order: number, offsets: Handle | null, eps: number): [Handle, Handle]
  polyRelu(x: Handle, weight: Handle, bias: Handle, offsets: Handle | null): Handle
  polyReluDownGrad(dout: Handle, down: Handle, weight: Handle, offsets: Handle | null, h: Handle): [Handle, Handle, Handle]
  polyReluGrad(x: Handle, weight: Handle, offsets: Handle | null, dy: Handle): [Handle, Handle, Handle]
  polyReluUp(x: Handle, up: Handle, weight: Handle, bias: Handle, offsets: Handle | null, keep: boolean): [Handle, Handle]
  pow(a: Handle, b: Handle): Handle
  powGrad(first: boolean, a: Handle, b: Handle, dy: Handle): Handle
  powScalar(x: Handle, value: number, first: boolean): Handle
  rand(shape: readonly number[], dtype: number, state: Handle, call: number, low: number, high: number): Handle
  randint(shape: readonly number[], dtype: number, state: Handle, call: number, low: number, high: number): Handle
  randn(shape: readonly number[], dtype: number, state: Handle, call: number, mean: number, std: number): Handle
  relu(x: Handle): Handle
  relu2(x: Handle): Handle
  relu2Grad(x: Handle, dy: Handle): Handle
  reluGrad(x: Handle, dy: Handle): Handle
  reshape(x: Handle, shape: readonly number[]): Handle
  rmsNorm(x: Handle, weight: Handle | null, eps: number): [Handle, Handle]
  rmsNormGrad(x: Handle, weight: Handle | null, rstd: Handle, dy: Handle, dsum: Handle | null, wantWeight: boolean): [Handle, Handle]
  rope(x: Handle, table: Handle, offset: number): Handle
  ropeGrad(dy: Handle, table: Handle, offset: number, like: Handle): Handle
  ropeTable(theta: number, positions: number, size: number, dtype: number, device: number): Handle
  route(logits: Handle, topK: number, normTopkProb: boolean): [Handle, Handle, Handle, Handle, Handle, Handle]
  routeGrad(logits: Handle, experts: Handle, lse: Handle, shares: Handle, dweights: Handle | null, daux: Handle | null, dz: Handle | null, normTopkProb: boolean): Handle
  shapeOf(x: Handle): readonly number[]
  sigmoid(x: Handle): Handle
  sigmoidGrad(x: Handle, dy: Handle): Handle
  sign(x: Handle): Handle
  signGrad(x: Handle, dy: Handle): Handle
  silu(x: Handle): Handle
  siluGrad(x: Handle, dy: Handle): Handle
  sin(x: Handle): Handle
  sinGrad(x: Handle, dy: Handle): Handle
  slice(x: Handle, axis: number, start: number, end: number, step: number): Handle
  sliceGrad(dy: Handle, shape: readonly number[], axis: number, start: number, end: number, step: number): Handle
  softmax(x: Handle): Handle
  softmaxGrad(y: Handle, dy: Handle): Handle
  sort(x: Handle, axis: number, descending: boolean, count: number): [Handle, Handle]
  spread(y: Handle, shape: readonly number[], axes: readonly number[] | null): Handle
  sqrt(x: Handle): Handle
  sqrtGrad(x: Handle, dy: Handle): Handle
  stridesOf(x: Handle): readonly number[]
  sub(a: Handle, b: Handle): Handle
  subGrad(first: boolean, a: Handle, b: Handle, dy: Handle): Handle
  subScalar(x: Handle, value: number, first: boolean): Handle
  sum(x: Handle, axes: readonly number[] | null, keepdims: boolean): Handle
  sumSquares(x: Handle, sum: Handle): void
  sumTo(x: Handle, shape: readonly number[]): Handle
  swiglu(gate: Handle, up: Handle): Handle
  swigluGrad(gate: Handle, up: Handle, dy: Handle): [Handle, Handle]
  tanh(x: Handle): Handle
  tanhGrad(x: Handle, dy: Handle): Handle
  toDevice(x: Handle, device: number): Handle
  transpose(x: Handle, a: number, b: number): Handle
  truncatedNormal(shape: readonly number[], dtype: number, state: Handle, call: number, std: number, cutoff: number): Handle
  where(condition: Handle, a: Handle, b: Handle): Handle
  windowOf(flat: Handle, shape: readonly number[], offset: number): Handle
}
