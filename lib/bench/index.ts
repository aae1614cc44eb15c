// What measures: timing in turns, programs measured beside ours, the products that a training step cannot do without.

export { type CaseName, readShape } from './cases.ts'
export { type Ceilings, type Figures, type MeasureOptions, measure, shareOfRoof } from './measure.ts'
export { type Overhead, overhead } from './overhead.ts'
export { Peer } from './peer.ts'
export { attentionProducts, linearProducts, operations, type Product } from './products.ts'
export { type BenchOptions, type BenchResult, bench, type PeerHello } from './run.ts'
export { type Contender, interleave, ratio, summary, type Timing, timed } from './timer.ts'
export type { BenchDtype, Place, Work } from './work.ts'
