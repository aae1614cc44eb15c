// Optimisers, learning rates, clipping.
export { AdamW, type AdamWOptions, type OptimizerState, type ParameterGroup, type Parameters } from './adamw.ts'
export { clipGradNorm } from './clip.ts'
export { constant, cosine, type Schedule, type ScheduleOptions, schedules, wsd } from './schedule.ts'
