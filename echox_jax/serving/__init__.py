"""A server that people and programs talk to: the OpenAI Realtime protocol in its GA form, a web
page that is a client of it, and plain HTTP.
"""
