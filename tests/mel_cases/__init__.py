"""Mels of many recordings as many toolkits make them: are they named rightly?"""
