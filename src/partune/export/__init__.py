"""What a study hands over: the winner's adapter, or the model with it merged in; its card; recipes for other tools."""
