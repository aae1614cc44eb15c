// What measures: timing in turns, programs measured beside ours, the products that a training step cannot do without.
export { Peer } from './peer.ts'
export { attentionProducts, linearProducts, operations, type Product } from './products.ts'
export { type Contender, interleave, ratio, summary, type Timing, timed } from './timer.ts'
