"""Remote runs: items reach a provider through lanes, by the strategy's instructions; nothing is lost or paid twice."""
