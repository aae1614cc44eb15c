// Every operation, as `ops.add(x, y)`.
export * from './elementwise.ts'
export * from './reduce.ts'
export * from './view.ts'
