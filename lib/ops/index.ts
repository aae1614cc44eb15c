// Every operation, as `ops.add(x, y)`.
export * from './elementwise.ts'
export * from './embedding.ts'
export * from './loss.ts'
export * from './norm.ts'
export * from './reduce.ts'
export * from './rope.ts'
export * from './softmax.ts'
export * from './view.ts'
