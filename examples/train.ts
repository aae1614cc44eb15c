// The README's fifteen lines: a language model of bytes that learns one sentence.
import { nn, optim, seed, tensor } from 'polygrad'

seed(1)
const ids = [...Buffer.from('the quick brown fox jumps over the lazy dog. '.repeat(6))]
const x = tensor([ids.slice(0, -1)], { dtype: 'int32' }) // (B, T) = (1, 269)
const y = tensor([ids.slice(1)], { dtype: 'int32' })
const size = { vocab_size: 256, hidden_size: 64, intermediate_size: 256, num_hidden_layers: 2, num_attention_heads: 4 }
const model = new nn.Transformer({ ...size, hidden_act: 'polynorm' })
const optimizer = new optim.AdamW(model.parameters(), { lr: 3e-3 })
for (let step = 0; step <= 40; step++) {
  optimizer.zeroGrad()
  const { total } = model.loss(x, y)
  total.backward()
  optimizer.step()
  if (step % 10 === 0) console.log(`step ${step}: ${(await total.item()).toFixed(3)} nats a byte`)
}
